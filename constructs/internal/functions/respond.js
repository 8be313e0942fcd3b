// The frame of the functions behind custom resources: runs exports.work(event, { left, rollingBack }), at a Delete exports.remove(event)
// where there is one, and answers CloudFormation in every case, before the time is up.

// Whoever may invoke the function may write its event. The answer goes to CloudFormation's own bucket of this region alone (AWS
// CloudFormation User Guide, "Access CloudFormation using an interface endpoint": the name of the region without dashes), by any
// of S3's addresses for it.
const isCloudFormations = (address) => {
  const region = process.env.STACK_ID.split(':')[3];
  const literally = (text) => text.replaceAll('.', '\\.');
  const host = new RegExp(`^cloudformation-custom-resource-response-${region.replaceAll('-', '')}`
    + `\\.s3(-fips)?([.-](dualstack\\.)?${region})?\\.${literally(process.env.URL_SUFFIX)}$`);
  try {
    const { protocol, username, password, port, hostname } = new URL(address);
    return typeof address === 'string' && protocol === 'https:' && `${username}${password}${port}` === '' && host.test(hostname);
  } catch {
    return false;
  }
};

// The states of a stack in which CloudFormation creates and updates resources.
const WORKING = /^(CREATE|UPDATE|ROLLBACK|UPDATE_ROLLBACK)_IN_PROGRESS$/;

exports.handler = async (event, context) => {
  const { RequestType, StackId, RequestId, LogicalResourceId, ResponseURL } = event;
  if (StackId !== process.env.STACK_ID || !isCloudFormations(ResponseURL)) {
    console.log('refused: the event is not one that CloudFormation sends for this stack');
    return;
  }
  const over = begin(RequestType === 'Create' ? 60 : 20);
  let answer = { Status: 'SUCCESS' };
  let timer;
  try {
    const left = Math.max(0, context.getRemainingTimeInMillis() - 10000);
    const late = () => new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error('AWS did not answer in time; repeat the operation.')), left);
    });
    if (RequestType === 'Delete') {
      // What is left behind is no reason to keep a stack from being deleted.
      if (exports.remove) await Promise.race([exports.remove(event), late()]).catch((error) => console.log('left behind:', `${error?.message || error?.name || error}`));
    } else {
      const work = async () => {
        const { StackStatus } = await ownStack();
        if (!WORKING.test(StackStatus)) throw new Error(`The stack is ${StackStatus}: only its creation or update may do this.`);
        // A rollback goes back to what was good before: refusing that would leave the stack in UPDATE_ROLLBACK_FAILED.
        return exports.work(event, { left, rollingBack: StackStatus.includes('ROLLBACK') });
      };
      answer.Data = await Promise.race([work(), late()]);
    }
  } catch (error) {
    // In printable ASCII, so that 1,000 characters never exceed the 4,096 bytes that CloudFormation takes.
    const Reason = String(error?.message || error?.name || error).replace(/[^ -~]/g, '?').slice(0, 1000);
    answer = { Status: 'FAILED', Reason };
  }
  clearTimeout(timer);
  over.abort();
  begin(0);
  // The id never changes: a new one would make CloudFormation believe that the resource was replaced.
  const PhysicalResourceId = event.PhysicalResourceId || `${LogicalResourceId}-${StackId.split('/').pop()}`;
  const body = JSON.stringify({ ...answer, StackId, RequestId, LogicalResourceId, PhysicalResourceId });
  console.log(RequestType, LogicalResourceId, answer.Status, answer.Reason || '');
  // Three times within the 10 s; after that Lambda invokes again, twice.
  await put(ResponseURL, body, 3);
};
