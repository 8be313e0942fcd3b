// Hears of launches that failed: an instance that never starts cannot tell anybody, and the stack would wait for it for an hour.
// EventBridge invokes this function with Auto Scaling's event "EC2 Instance Launch Unsuccessful"; the event names a group, all
// else is asked of AWS.

// Whose repetition cannot succeed: quotas, keys, images, requests that EC2 does not take (EC2 API Reference, "Error codes").
// What is not listed here may heal, and gets some time.
const FINAL = [
  /vCPU (capacity|limit)|VcpuLimitExceeded|InstanceLimitExceeded|more instances \(\d+\) than your current instance limit/i,
  /Client\.InternalError|Client error on launch|KMS|InvalidKMSKey/i,
  /image id .* does not exist|InvalidAMIID|OptInRequired|accept terms and subscribe|no longer available/i,
  /UnauthorizedOperation|not authorized to perform|AuthFailure/i,
  /not a valid tag key|InvalidParameter|InvalidBlockDeviceMapping|Unsupported(Operation)?:|not supported|VolumeSizeTooSmall|smaller than snapshot/i,
  /key pair .* does not exist|InvalidKeyPair|security group .* does not exist|InvalidGroup|subnet ID .* does not exist|InvalidSubnet/i,
  /launch template .* does not exist|InvalidLaunchTemplate/i,
];
const PATIENCE_MINUTES = 10;

// Launches of a group that failed since the last one that succeeded, the newest first. Auto Scaling keeps its activities for six
// weeks; those from before the operation that waits count for nothing.
const failures = async (AutoScalingGroupName, since) => {
  const { Activities } = await aws('AutoScaling', 'DescribeScalingActivities', { AutoScalingGroupName, MaxRecords: 100 });
  const found = [];
  for (const activity of Activities) {
    if (!/^Launching/.test(activity.Description) || new Date(activity.StartTime) < since) continue;
    if (activity.StatusCode === 'Successful') break;
    if (activity.StatusCode === 'Failed') found.push(activity);
  }
  return found;
};

exports.handler = async (event) => {
  begin(0);
  const name = event?.detail?.AutoScalingGroupName;
  if (typeof name !== 'string' || !name) return console.log('refused: the event names no group');

  const { AutoScalingGroups: [group] } = await aws('AutoScaling', 'DescribeAutoScalingGroups', { AutoScalingGroupNames: [name] });
  const tag = (wanted) => group?.Tags?.find(({ Key }) => Key === `aws:cloudformation:${wanted}`)?.Value;
  // The rule's pattern knows the beginning of a name alone, with which names of other stacks' groups may begin too.
  if (tag('stack-id') !== process.env.STACK_ID) return console.log(`${name} is not a group of this stack`);
  const id = tag('logical-id');
  const { MASTER_GROUPS = '', MASTER_WAIT_URL, MEDIA_GROUPS = '', MEDIA_WAIT_URLS = '' } = process.env;
  const masters = MASTER_GROUPS.split(',').includes(id);
  const address = masters ? MASTER_WAIT_URL : MEDIA_WAIT_URLS.split(' ')[MEDIA_GROUPS.split(',').indexOf(id)];

  const { StackStatus, CreationTime, LastUpdatedTime } = await ownStack();
  const creating = StackStatus === 'CREATE_IN_PROGRESS';
  // Of updates, the masters' groups alone wait for signals. A rollback that fails would need more than it gains.
  if (!creating && !(StackStatus === 'UPDATE_IN_PROGRESS' && masters)) return console.log(`${id}: a launch failed, and nothing waits for it: the stack is ${StackStatus}`);
  if (creating && !address) return console.log(`${id}: a launch failed, and nothing waits for it`);

  const failed = await failures(name, new Date(LastUpdatedTime && !creating ? LastUpdatedTime : CreationTime));
  // The event may come before the activity ends; the next launch that fails brings another one.
  if (!failed.length) return console.log(`${id}: no launch is failing any more`);
  // An instance beyond its launch reports by itself, and the group has what the stack waits for.
  const alive = group.Instances?.filter(({ LifecycleState }) => !/^(Pending|Terminat.*|Detach.*)$/.test(LifecycleState)) || [];
  if (alive.length) return console.log(`${id}: a launch failed, but there are instances`);

  const why = failed[0].StatusMessage || 'Auto Scaling gave no reason';
  const minutes = (Date.now() - new Date(failed.at(-1).StartTime)) / 60000;
  if (!FINAL.some((reason) => reason.test(why)) && minutes < PATIENCE_MINUTES) {
    return console.log(`${id}: launches fail for ${Math.floor(minutes)} minutes, which may heal: ${why}`);
  }
  console.log(`${id}: no instance can be launched: ${why}`);
  const ascii = (text, length) => text.replace(/[^ -~]/g, '?').slice(0, length);
  if (creating) {
    const Reason = ascii(`${id}: Auto Scaling cannot launch an instance: ${why}`, 1000);
    // Final: the address expired, or is none.
    return put(address, JSON.stringify({ Status: 'FAILURE', Reason, UniqueId: ascii(`${id} launch`, 64), Data: 'launch' }), 20, [400, 403, 404]);
  }
  // A signal carries no reason, but the event of the stack shows its id.
  const UniqueId = ascii(`Launch failed: ${why}`, 64);
  try {
    await aws('CloudFormation', 'SignalResource', { StackName: process.env.STACK_ID, LogicalResourceId: id, UniqueId, Status: 'FAILURE' });
  } catch (error) {
    if (error.name !== 'ValidationError') throw error;
    console.log(`${id}: nothing waits for it: ${error.message}`);
  }
  return undefined;
};
