// The frame of both functions: runs exports.work(event, milliseconds that are left for it) and answers CloudFormation in every case,
// before the time is up. Nothing is loaded outside of the handler: nobody would answer for what fails there.
exports.handler = async (event, context) => {
  let answer = { Status: 'SUCCESS' };
  let timer;
  try {
    // Nothing was made that a Delete would have to take away.
    if (event.RequestType !== 'Delete') {
      const left = Math.max(0, context.getRemainingTimeInMillis() - 10000);
      const late = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error('AWS did not answer in time; repeat the operation.')), left);
      });
      answer.Data = await Promise.race([exports.work(event, left), late]);
    }
  } catch (error) {
    // In printable ASCII, so that 1,000 characters never exceed the 4,096 bytes that CloudFormation takes.
    const Reason = String(error?.message || error?.name || error).replace(/[^ -~]/g, '?').slice(0, 1000);
    answer = { Status: 'FAILED', Reason };
  }
  clearTimeout(timer);
  const { StackId, RequestId, LogicalResourceId } = event;
  // The id never changes: a new one would make CloudFormation believe that the resource was replaced.
  const PhysicalResourceId = event.PhysicalResourceId || `${LogicalResourceId}-${StackId.split('/').pop()}`;
  const body = JSON.stringify({ ...answer, StackId, RequestId, LogicalResourceId, PhysicalResourceId });
  console.log(event.RequestType, LogicalResourceId, answer.Status, answer.Reason || '');
  // Three times within the 10 s; after that Lambda invokes again, twice.
  for (let attempt = 1; ; attempt++) {
    try {
      const { ok, status } = await fetch(event.ResponseURL,
        { method: 'PUT', body, headers: { 'content-type': '' }, signal: AbortSignal.timeout(2500) });
      if (ok) return;
      throw new Error(`CloudFormation: ${status}`);
    } catch (error) {
      if (attempt === 3) throw error;
      await new Promise((resolve) => { setTimeout(resolve, 500 * attempt); });
    }
  }
};

// A rollback goes back to what was good before: refusing that would leave the stack in UPDATE_ROLLBACK_FAILED.
const rollingBack = async (StackName) => {
  try {
    const { CloudFormationClient, DescribeStacksCommand } = require('@aws-sdk/client-cloudformation');
    const { Stacks } = await new CloudFormationClient().send(new DescribeStacksCommand({ StackName }));
    return Stacks[0].StackStatus.includes('ROLLBACK');
  } catch (error) {
    console.log('stack status unknown:', error.name);
    return false;
  }
};
