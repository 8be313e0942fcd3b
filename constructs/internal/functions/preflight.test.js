const assert = require('node:assert/strict');
const { randomUUID } = require('node:crypto');
const { test } = require('node:test');
const { STACK, awsError, start, testFrame } = require('./harness.js');

const FILE = 'preflight.js';

const ZONES = {
  'subnet-a': 'eu-west-1a', 'subnet-b': 'eu-west-1b', 'subnet-c': 'eu-west-1c', 'subnet-d': 'eu-west-1d',
  'subnet-a2': 'eu-west-1a', 'subnet-b2': 'eu-west-1b', 'subnet-e': 'eu-west-1e',
};

// EC2 answers in an order of its own, each subnet once, and refuses ids that it does not know.
const aws = (calls = {}) => ({
  DescribeSubnets: ({ SubnetIds, ...others }) => {
    assert.deepEqual(others, {});
    assert.ok(SubnetIds.length > 0);
    const unknown = SubnetIds.find((id) => !(id in ZONES));
    if (unknown) throw awsError('InvalidSubnetID.NotFound', `The subnet ID '${unknown}' does not exist`);
    return { Subnets: [...new Set(SubnetIds)].sort().reverse().map((id) => ({ SubnetId: id, AvailabilityZone: ZONES[id] })) };
  },
  DescribeImages: ({ ImageIds, ...others }) => {
    assert.deepEqual(others, {});
    assert.deepEqual(ImageIds, ['ami-1']);
    return { Images: [{ ImageId: 'ami-1', RootDeviceName: '/dev/sda1' }] };
  },
  DescribeStacks: ({ StackName }) => {
    assert.equal(StackName, STACK);
    return { Stacks: [{ StackStatus: 'UPDATE_IN_PROGRESS' }] };
  },
  ...calls,
});

const event = (LogicalResourceId, now, before) => ({
  RequestType: before ? 'Update' : 'Create',
  RequestId: randomUUID(),
  LogicalResourceId,
  ResourceProperties: now,
  ...(before && { OldResourceProperties: before }),
});

const TOKEN = { ServiceToken: 'arn:aws:lambda:eu-west-1:111122223333:function:Preflight', ServiceTimeout: '600' };

// Numbers are texts by the time that CloudFormation hands them over.
const properties = (changes) => ({
  ...TOKEN,
  Vpc: 'vpc-1',
  MasterSubnets: ['subnet-a', 'subnet-b', 'subnet-c'],
  MediaSubnets: ['subnet-a', 'subnet-b'],
  ImageId: 'ami-1',
  DiskSize: '100',
  RetainVolumes: 'true',
  ...changes,
});

const checks = (now, before) => event('Checks', properties(now), before && properties(before));
const slots = (now, before) => event('Slots', { ...TOKEN, MasterSubnets: now },
  before && { ...TOKEN, MasterSubnets: before });

testFrame(test, FILE, checks, aws, 'DescribeSubnets');

test('Delete of the slots answers SUCCESS without calling AWS', async (t) => {
  const world = await start(t, FILE, {});
  assert.equal((await world.invoke({ ...slots(['subnet-a']), RequestType: 'Delete' })).Status, 'SUCCESS');
  assert.deepEqual(world.calls, []);
});

const SLOTS = [
  { given: ['subnet-a'], placed: ['subnet-a', 'subnet-a', 'subnet-a', 'subnet-a'] },
  { given: ['subnet-b', 'subnet-a'], placed: ['subnet-b', 'subnet-a', 'subnet-b', 'subnet-a'] },
  { given: ['subnet-c', 'subnet-a', 'subnet-b'], placed: ['subnet-c', 'subnet-a', 'subnet-b', 'subnet-c'] },
  { given: ['subnet-d', 'subnet-c', 'subnet-b', 'subnet-a'], placed: ['subnet-d', 'subnet-c', 'subnet-b', 'subnet-a'] },
  { given: ['subnet-a', 'subnet-a2'], placed: ['subnet-a', 'subnet-a2', 'subnet-a', 'subnet-a2'] },
];

for (const { given, placed } of SLOTS) {
  for (const before of [undefined, given]) {
    test(`${before ? 'Update' : 'Create'} of slots gives the four slots of ${given} their subnet and its zone`, async (t) => {
      const world = await start(t, FILE, aws());
      const expected = Object.fromEntries(placed.flatMap((subnet, slot) => [
        [`Subnet${slot + 1}`, subnet], [`Zone${slot + 1}`, ZONES[subnet]]]));
      assert.deepEqual(await world.succeed(slots(given, before)), expected);
    });
  }
}

test('slots know nothing but the subnets of the Master Nodes', async (t) => {
  const world = await start(t, FILE, aws());
  await world.succeed(slots(['subnet-a', 'subnet-b']));
  assert.deepEqual(world.calls, [{ call: 'DescribeSubnets', input: { SubnetIds: ['subnet-a', 'subnet-b'] } }]);
});

const BALANCED = [
  { masters: ['subnet-a'], media: ['subnet-a'], all: 'subnet-a', turn: 'subnet-a' },
  { masters: ['subnet-c', 'subnet-a'], media: ['subnet-b', 'subnet-a'], all: 'subnet-c,subnet-a,subnet-b', turn: 'subnet-b,subnet-a' },
  { masters: ['subnet-b', 'subnet-b2', 'subnet-a2'], media: ['subnet-b2', 'subnet-a', 'subnet-b'],
    all: 'subnet-b,subnet-a2', turn: 'subnet-b2,subnet-a' },
  { masters: ['subnet-a', 'subnet-b', 'subnet-c', 'subnet-d'], media: ['subnet-e'],
    all: 'subnet-a,subnet-b,subnet-c,subnet-d,subnet-e', turn: 'subnet-e' },
];

for (const { masters, media, all, turn } of BALANCED) {
  test(`masters in ${masters} and media in ${media}: load balancers get one subnet a zone`, async (t) => {
    const world = await start(t, FILE, aws());
    assert.deepEqual(await world.succeed(checks({ MasterSubnets: masters, MediaSubnets: media })), {
      LoadBalancerSubnets: all, TurnSubnets: turn, RootDeviceName: '/dev/sda1',
    });
  });
}

test('each subnet is asked for once', async (t) => {
  const world = await start(t, FILE, aws());
  await world.succeed(checks());
  assert.deepEqual(world.called('DescribeSubnets'), [{ SubnetIds: ['subnet-a', 'subnet-b', 'subnet-c'] }]);
});

const IMAGES = {
  'may not be described': () => { throw awsError('UnauthorizedOperation'); },
  'is not found': () => ({ Images: [] }),
};

for (const [name, DescribeImages] of Object.entries(IMAGES)) {
  test(`an image that ${name} is taken to have Amazon Linux's root device`, async (t) => {
    const world = await start(t, FILE, aws({ DescribeImages }));
    assert.equal((await world.succeed(checks())).RootDeviceName, '/dev/xvda');
    assert.match(world.log, /root device unknown/);
  });
}

for (const [name, make] of Object.entries({ checks: (subnets) => checks({ MasterSubnets: subnets }), slots })) {
  test(`${name} that cannot look up a subnet fail with the message of EC2`, async (t) => {
    const world = await start(t, FILE, aws());
    assert.equal(await world.fail(make(['subnet-a', 'subnet-lost'])), "The subnet ID 'subnet-lost' does not exist");
  });
}

const FIVE = ['subnet-a', 'subnet-b', 'subnet-c', 'subnet-d', 'subnet-e'];
const THREE = 'subnet-a,subnet-b,subnet-c';
// Without before it is a Create; a refused one says exactly this.
const CHECKS = [
  { name: 'five subnets of masters', now: { MasterSubnets: FIVE },
    refused: 'OpenViduMasterNodeSubnets: 5 were given; choose 1 to 4.' },
  { name: 'four subnets of masters', now: { MasterSubnets: FIVE.slice(0, 4) } },
  { name: 'one subnet of masters', now: { MasterSubnets: ['subnet-a'] } },
  { name: 'a subnet of masters named twice', now: { MasterSubnets: ['subnet-a', 'subnet-b', 'subnet-a'] },
    refused: "OpenViduMasterNodeSubnets: 'subnet-a,subnet-b,subnet-a' names one twice; name each once." },
  { name: 'two subnets of masters in one zone', now: { MasterSubnets: ['subnet-a', 'subnet-a2'] } },
  { name: 'many subnets of media', now: { MediaSubnets: [...FIVE, 'subnet-a2'] } },

  { name: 'an Update of nothing', before: {} },
  { name: 'an Update of nothing with fewer subnets than slots', now: { MasterSubnets: ['subnet-a', 'subnet-b'] },
    before: { MasterSubnets: ['subnet-a', 'subnet-b'] } },
  { name: 'a subnet of masters replaced', now: { MasterSubnets: ['subnet-a', 'subnet-d', 'subnet-c'] }, before: {},
    refused: `OpenViduMasterNodeSubnets: 'subnet-a,subnet-d,subnet-c' would take Master Nodes 2 from their IPs and data; go back to '${THREE}'.` },
  { name: 'subnets of masters in another order', now: { MasterSubnets: ['subnet-b', 'subnet-a', 'subnet-c'] }, before: {},
    refused: `OpenViduMasterNodeSubnets: 'subnet-b,subnet-a,subnet-c' would take Master Nodes 1,2,4 from their IPs and data; go back to '${THREE}'.` },
  { name: 'one more subnet of masters', now: { MasterSubnets: FIVE.slice(0, 4) }, before: {},
    refused: `OpenViduMasterNodeSubnets: 'subnet-a,subnet-b,subnet-c,subnet-d' would take Master Nodes 4 from their IPs and data; go back to '${THREE}'.` },
  { name: 'one subnet of masters less', now: { MasterSubnets: ['subnet-a', 'subnet-b'] }, before: {},
    refused: `OpenViduMasterNodeSubnets: 'subnet-a,subnet-b' would take Master Nodes 3,4 from their IPs and data; go back to '${THREE}'.` },
  { name: 'another VPC', now: { Vpc: 'vpc-2' }, before: {},
    refused: "OpenViduVPC: a cluster cannot move to 'vpc-2'; go back to 'vpc-1'." },
  { name: 'a smaller disk', now: { DiskSize: '99' }, before: {},
    refused: 'DiskSize: 99 is less than the volumes have; give 100 or more.' },
  { name: 'a smaller disk that sorts after the old size', now: { DiskSize: '200' }, before: { DiskSize: '1000' },
    refused: 'DiskSize: 200 is less than the volumes have; give 1000 or more.' },
  { name: 'a bigger disk', now: { DiskSize: '101' }, before: {} },
  { name: 'a bigger disk that sorts before the old size', now: { DiskSize: '1000' }, before: { DiskSize: '200' } },
  { name: 'volumes no longer retained', now: { RetainVolumes: 'false' }, before: {},
    refused: "RetainVolumes: 'false' would replace the volumes by blank ones; go back to 'true'." },
  { name: 'volumes retained from now on', now: { RetainVolumes: 'true' }, before: { RetainVolumes: 'false' },
    refused: "RetainVolumes: 'true' would replace the volumes by blank ones; go back to 'false'." },
  { name: 'other subnets of media', now: { MediaSubnets: ['subnet-d'] }, before: {} },
];

for (const { name, now, before, refused } of CHECKS) {
  test(`${name}: ${refused ? 'refused' : 'accepted'}`, async (t) => {
    const world = await start(t, FILE, aws());
    if (refused) {
      assert.equal(await world.fail(checks(now, before)), refused);
      assert.deepEqual(world.called('DescribeSubnets'), []);
    } else {
      await world.succeed(checks(now, before));
      assert.deepEqual(world.called('DescribeStacks'), []);
    }
  });

  if (refused && before) {
    test(`${name}: accepted in a rollback`, async (t) => {
      const world = await start(t, FILE, aws({
        DescribeStacks: () => ({ Stacks: [{ StackStatus: 'UPDATE_ROLLBACK_IN_PROGRESS' }] }),
      }));
      assert.deepEqual(Object.keys(await world.succeed(checks(now, before))), ['LoadBalancerSubnets', 'TurnSubnets', 'RootDeviceName']);
    });

    test(`${name}: refused when nobody knows whether this is a rollback`, async (t) => {
      const world = await start(t, FILE, aws({ DescribeStacks: () => { throw awsError('AccessDenied'); } }));
      assert.equal(await world.fail(checks(now, before)), refused);
    });
  }
}

test('another image is accepted, and its root device answered', async (t) => {
  const world = await start(t, FILE, aws({ DescribeImages: ({ ImageIds }) => ({ Images: [{ RootDeviceName: `/dev/${ImageIds}` }] }) }));
  assert.equal((await world.succeed(checks({ ImageId: 'ami-2' }, {}))).RootDeviceName, '/dev/ami-2');
});

test('all problems of a Create stand in one message', async (t) => {
  const world = await start(t, FILE, aws());
  const reason = await world.fail(checks({ MasterSubnets: [...FIVE, 'subnet-a'] }));
  for (const part of ['6 were given', 'names one twice']) assert.ok(reason.includes(part), reason);
});

test('all problems of an Update stand in one message', async (t) => {
  const world = await start(t, FILE, aws());
  const reason = await world.fail(checks(
    { MasterSubnets: [...FIVE.slice(1), 'subnet-a', 'subnet-a'], Vpc: 'vpc-2', DiskSize: '50', RetainVolumes: 'false' }, {}));
  for (const part of ['6 were given', 'names one twice', 'Master Nodes 1,2,3,4', "OpenViduVPC: a cluster cannot move to 'vpc-2'",
    'DiskSize: 50', "RetainVolumes: 'false'"]) assert.ok(reason.includes(part), reason);
});
