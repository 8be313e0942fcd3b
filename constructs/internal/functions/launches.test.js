const assert = require('node:assert/strict');
const { test } = require('node:test');
const { STACK, awsError, start } = require('./harness.js');

const FILE = 'launches.js';
const MINUTE = 60000;
const WAIT = (kind) => `https://cloudformation-waitcondition-eu-west-1.s3-eu-west-1.amazonaws.com/${kind}?Signature=a%2Fb`;
const QUOTA = 'You have requested more vCPU capacity than your current vCPU limit of 32 allows for the instance bucket that the specified '
  + 'instance type belongs to. Please visit http://aws.amazon.com/contact-us/ec2-request to request an adjustment to this limit. Launching EC2 instance failed.';
const CAPACITY = 'We currently do not have sufficient c6a.xlarge capacity in the Availability Zone you requested (eu-west-1a). Our system will be working '
  + 'on provisioning additional capacity. Launching EC2 instance failed.';

// An Auto Scaling group of the stack, as AWS describes it. Activities are given with the minutes since they began, the newest first.
const group = ({ id = 'OpenViduMasterNodeASG1', stack = STACK, instances = [], activities = [[1, QUOTA]], status = 'CREATE_IN_PROGRESS', since = 20, updated } = {}) => {
  const name = `OpenViduHA-${id}-Ab12`;
  return {
    name,
    calls: {
      DescribeAutoScalingGroups: ({ AutoScalingGroupNames, ...others }) => {
        assert.deepEqual([AutoScalingGroupNames, others], [[name], {}]);
        return { AutoScalingGroups: [{ AutoScalingGroupName: name, Instances: instances.map((LifecycleState) => ({ LifecycleState })), Tags: [
          { Key: 'Name', Value: 'x' }, { Key: 'aws:cloudformation:stack-id', Value: stack }, { Key: 'aws:cloudformation:logical-id', Value: id }] }] };
      },
      DescribeScalingActivities: ({ AutoScalingGroupName, ...others }) => {
        assert.deepEqual([AutoScalingGroupName, others], [name, { MaxRecords: 100 }]);
        return { Activities: activities.map(([minutes, StatusMessage, StatusCode = 'Failed', Description = 'Launching a new EC2 instance.  Status Reason: …']) => (
          { StartTime: new Date(Date.now() - minutes * MINUTE), StatusMessage, StatusCode, Description })) };
      },
      DescribeStacks: ({ StackName }) => {
        assert.equal(StackName, STACK);
        return { Stacks: [{ StackStatus: status, CreationTime: new Date(Date.now() - since * MINUTE), ...updated && { LastUpdatedTime: new Date(Date.now() - updated * MINUTE) } }] };
      },
      SignalResource: () => ({}),
    },
  };
};

const event = (name) => ({ 'detail-type': 'EC2 Instance Launch Unsuccessful', source: 'aws.autoscaling',
  detail: { AutoScalingGroupName: name, StatusCode: 'Failed', StatusMessage: 'what the event says is not believed', Cause: 'At …' } });

const hear = async (t, of = {}, calls = {}) => {
  const { name, calls: theirs } = group(of);
  const world = await start(t, FILE, { ...theirs, ...calls });
  Object.assign(world.env, { MASTER_GROUPS: 'OpenViduMasterNodeASG1,OpenViduMasterNodeASG2', MASTER_WAIT_URL: WAIT('masters'),
    MEDIA_GROUPS: 'OpenViduMediaNodeASG,SecondFleet', MEDIA_WAIT_URLS: `${WAIT('media')} ${WAIT('second')}` });
  world.pause = 0.001;
  world.again = () => world.hear(event(name));
  await world.again();
  return world;
};
const told = (world) => world.puts.map(({ body }) => JSON.parse(body));
const signals = (world) => world.called('SignalResource');
const silent = (world, why) => {
  assert.deepEqual([world.puts, signals(world)], [[], []]);
  assert.match(world.log, why);
};

for (const [id, kind] of [['OpenViduMasterNodeASG1', 'masters'], ['OpenViduMasterNodeASG2', 'masters'], ['OpenViduMediaNodeASG', 'media'], ['SecondFleet', 'second']]) {
  test(`a quota fails the creation at once, in Auto Scaling's words: ${id}`, async (t) => {
    const world = await hear(t, { id });
    assert.deepEqual(world.fetched, [WAIT(kind)]);
    assert.deepEqual(told(world), [{ Status: 'FAILURE', Reason: `${id}: Auto Scaling cannot launch an instance: ${QUOTA}`, UniqueId: `${id} launch`, Data: 'launch' }]);
    assert.equal(world.puts[0].headers['content-type'], '');
    assert.deepEqual(signals(world), []);
  });
}

test('a quota fails the update of a master at once, and the signal names it', async (t) => {
  const world = await hear(t, { status: 'UPDATE_IN_PROGRESS', since: 9000, updated: 5 });
  assert.deepEqual(signals(world), [{ StackName: STACK, LogicalResourceId: 'OpenViduMasterNodeASG1', Status: 'FAILURE',
    UniqueId: 'Launch failed: You have requested more vCPU capacity than your c' }]);
  assert.equal(signals(world)[0].UniqueId.length, 64);
  assert.deepEqual(world.puts, []);
});

// As Auto Scaling and EC2 write them.
const FINAL = [
  QUOTA,
  'You have requested more instances (7) than your current instance limit of 6 allows for the specified instance type. Launching EC2 instance failed.',
  'Instance became unhealthy while waiting for instance to be in InService state. Termination Reason: Client.InternalError: Client error on launch',
  'The KMS key provided is in an incorrect state. Launching EC2 instance failed.',
  "The image id '[ami-0123456789abcdef0]' does not exist. Launching EC2 instance failed.",
  'In order to use this AWS Marketplace product you need to accept terms and subscribe. To do so please visit https://aws.amazon.com/marketplace/pp. Launching EC2 instance failed.',
  'You are not authorized to perform this operation. Encoded authorization failure message: abc. Launching EC2 instance failed.',
  "'Cost Center' is not a valid tag key. Tag keys must match pattern ([0-9a-zA-Z\\-_+=,.@:]{1,255}), and must not be a reserved name ('.', '..', '_index'). Launching EC2 instance failed.",
  "Volume of size 8GB is smaller than snapshot 'snap-1', expect size >= 50GB. Launching EC2 instance failed.",
  "The key pair 'mine' does not exist. Launching EC2 instance failed.",
  'The requested configuration is currently not supported. Please check the documentation for supported configurations. Launching EC2 instance failed.',
];
for (const why of FINAL) {
  test(`told at once: ${why.slice(0, 70)}`, async (t) => {
    const [{ Reason }] = told(await hear(t, { activities: [[0.1, why]] }));
    assert.ok(Reason.endsWith(why));
  });
}

const HEALS = [
  CAPACITY,
  'Your requested instance type (c6a.xlarge) has insufficient capacity. Launching EC2 instance failed.',
  'Request limit exceeded. Launching EC2 instance failed.',
  'Server.InternalError: Internal error on launch',
  'Invalid IAM Instance Profile name. Launching EC2 instance failed.', // IAM takes a moment
  'There are not enough free addresses in the subnet. Launching EC2 instance failed.',
  'something that nobody has seen before',
  undefined,
];
for (const why of HEALS) {
  test(`told after some minutes: ${why?.slice(0, 70)}`, async (t) => {
    silent(await hear(t, { activities: [[0.5, why], [3, why], [9.5, why]] }), /which may heal/);
    const [{ Reason }] = told(await hear(t, { activities: [[0.5, why], [3, why], [10.5, why]] }));
    assert.ok(Reason.endsWith(why ?? 'Auto Scaling gave no reason'), Reason);
  });
}

test('what was before a launch that succeeded does not count', async (t) => {
  silent(await hear(t, { activities: [[1, CAPACITY], [5, '', 'Successful'], [19, CAPACITY]] }), /which may heal/);
  silent(await hear(t, { activities: [[1, '', 'Successful'], [5, QUOTA]] }), /no launch is failing any more/);
});

test('what was before the creation or the update does not count', async (t) => {
  silent(await hear(t, { since: 5, activities: [[1, CAPACITY], [19, CAPACITY]] }), /which may heal/);
  silent(await hear(t, { status: 'UPDATE_IN_PROGRESS', since: 9000, updated: 5, activities: [[1, CAPACITY], [19, CAPACITY]] }), /which may heal/);
  silent(await hear(t, { status: 'UPDATE_IN_PROGRESS', since: 9000, updated: 5, activities: [[6, QUOTA]] }), /no launch is failing any more/);
});

test('launches under way, and ends of instances, neither count nor interrupt', async (t) => {
  const world = await hear(t, { activities: [[0.2, undefined, 'InProgress'], [0.5, CAPACITY], [1, '', 'Successful', 'Terminating EC2 instance: i-1'], [11, CAPACITY]] });
  assert.equal(told(world).length, 1);
  silent(await hear(t, { activities: [[0.2, undefined, 'PreInService']] }), /no launch is failing any more/);
});

for (const state of ['InService', 'Pending:Wait', 'Pending:Proceed', 'Standby', 'Warmed:Stopped']) {
  test(`nothing is told while an instance is ${state}`, async (t) => {
    silent(await hear(t, { id: 'OpenViduMediaNodeASG', instances: ['Terminating:Wait', state] }), /but there are instances/);
  });
}

for (const state of ['Pending', 'Terminating', 'Terminating:Wait', 'Terminated', 'Detaching']) {
  test(`an instance that is ${state} is none`, async (t) => {
    assert.equal(told(await hear(t, { instances: [state] })).length, 1);
  });
}

for (const status of ['CREATE_COMPLETE', 'UPDATE_COMPLETE', 'UPDATE_ROLLBACK_IN_PROGRESS', 'ROLLBACK_IN_PROGRESS', 'DELETE_IN_PROGRESS', 'UPDATE_COMPLETE_CLEANUP_IN_PROGRESS']) {
  test(`nothing waits while the stack is ${status}`, async (t) => {
    silent(await hear(t, { status }), new RegExp(`nothing waits for it: the stack is ${status}`));
  });
}

test('the fleet waits for no signal in an update', async (t) => {
  silent(await hear(t, { status: 'UPDATE_IN_PROGRESS', id: 'OpenViduMediaNodeASG' }), /nothing waits for it/);
});

test("another stack's group, whose name begins alike, is nobody's business", async (t) => {
  const world = await hear(t, { stack: STACK.replace('OpenViduHA', 'OpenViduHA-Other') });
  silent(world, /is not a group of this stack/);
  assert.deepEqual(world.called('DescribeScalingActivities'), []);
});

test('a group of the stack that is none of the cluster is left alone', async (t) => {
  silent(await hear(t, { id: 'Another' }), /nothing waits for it/);
});

test('a group that is gone is not of this stack', async (t) => {
  silent(await hear(t, {}, { DescribeAutoScalingGroups: () => ({ AutoScalingGroups: [] }) }), /is not a group of this stack/);
});

for (const forged of [undefined, {}, { detail: {} }, { detail: { AutoScalingGroupName: ['a'] } }, { detail: { AutoScalingGroupName: '' } }]) {
  test(`${JSON.stringify(forged)} is no event`, async (t) => {
    const world = await start(t, FILE, {});
    await world.hear(forged);
    assert.deepEqual(world.calls, []);
    silent(world, /refused: the event names no group/);
  });
}

test('what Auto Scaling says is cut and made printable', async (t) => {
  const [{ Reason }] = told(await hear(t, { activities: [[1, `vCPU limit \u{1f4a5}\n${'x'.repeat(5000)}`]] }));
  assert.equal(Reason.length, 1000);
  assert.match(Reason, /^[ -~]+$/);
});

test('a creation that takes the reason late gets it, and one that is over gets it no more', async (t) => {
  const { name, calls } = group();
  const world = await start(t, FILE, calls);
  Object.assign(world.env, { MASTER_GROUPS: 'OpenViduMasterNodeASG1', MASTER_WAIT_URL: WAIT('masters') });
  world.pause = 0.001;
  world.refuse = [503, 0, 500, 503];
  await world.hear(event(name));
  assert.equal(world.puts.length, 5);
  world.refuse = [403];
  await assert.rejects(world.hear(event(name)), /^Error: CloudFormation: 403$/);
  assert.equal(world.puts.length, 6);
});

test('an update that waits no more is left alone', async (t) => {
  const ValidationError = () => { throw awsError('ValidationError', 'Resource OpenViduMasterNodeASG1 is in UPDATE_COMPLETE state and cannot be signaled'); };
  const world = await hear(t, { status: 'UPDATE_IN_PROGRESS', updated: 5 }, { SignalResource: ValidationError });
  assert.match(world.log, /nothing waits for it: Resource/);
  await assert.rejects(hear(t, { status: 'UPDATE_IN_PROGRESS', updated: 5 }, { SignalResource: () => { throw awsError('Throttling'); } }), /Throttling/);
});

test('events that come twice tell the same', async (t) => {
  const world = await hear(t);
  await world.again();
  const [one, other] = world.puts.map(({ body }) => body);
  assert.equal(one, other);
});
