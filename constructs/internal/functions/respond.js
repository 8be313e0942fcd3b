// The frame of both functions: runs work(event) and answers CloudFormation in every case, before the time is up.
const { CloudFormationClient, DescribeStacksCommand } = require('@aws-sdk/client-cloudformation');

exports.handler = async (event, context) => {
  let answer = { Status: 'SUCCESS' };
  let timer;
  try {
    // Nothing was made that a Delete would have to take away.
    if (event.RequestType !== 'Delete') {
      const late = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error('AWS did not answer in time')),
          Math.max(0, context.getRemainingTimeInMillis() - 10000));
      });
      answer.Data = await Promise.race([work(event), late]);
    }
  } catch (error) {
    answer = { Status: 'FAILED', Reason: String(error.message || error.name).slice(0, 1000) };
  }
  clearTimeout(timer);
  const { StackId, RequestId, LogicalResourceId } = event;
  // The id never changes: a new one would make CloudFormation believe that the resource was replaced.
  const PhysicalResourceId = event.PhysicalResourceId || `${LogicalResourceId}-${StackId.split('/').pop()}`;
  const body = JSON.stringify({ ...answer, StackId, RequestId, LogicalResourceId, PhysicalResourceId });
  console.log(event.RequestType, LogicalResourceId, answer.Status, answer.Reason || '');
  const { ok, status } = await fetch(event.ResponseURL, { method: 'PUT', body, headers: { 'content-type': '' } });
  if (!ok) throw new Error(`CloudFormation: ${status}`); // Lambda invokes again, twice
};

// A rollback goes back to what was good before: refusing that would leave the stack in UPDATE_ROLLBACK_FAILED.
const rollingBack = async (StackName) => {
  try {
    const { Stacks } = await new CloudFormationClient().send(new DescribeStacksCommand({ StackName }));
    return Stacks[0].StackStatus.includes('ROLLBACK');
  } catch (error) {
    console.log('stack status unknown:', error.name);
    return false;
  }
};
