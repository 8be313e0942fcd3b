const assert = require('node:assert/strict');
const { randomUUID } = require('node:crypto');
const { test } = require('node:test');
const { ARN, FIVE, RESTORED, VPC, preflight: CASES, properties } = require('./cases.js');
const { STACK, awsError, start, testFrame } = require('./harness.js');

const FILE = 'preflight.js';

// The account, in which the cases choose. Without more, a subnet is public, by the VPC's main route table.
const SUBNETS = {
  'subnet-a': { zone: 'eu-west-1a' }, 'subnet-b': { zone: 'eu-west-1b', CidrBlock: '10.0.1.0/24' }, 'subnet-c': { zone: 'eu-west-1c' },
  'subnet-d': { zone: 'eu-west-1d', CidrBlock: '10.0.0.0/29' }, 'subnet-e': { zone: 'eu-west-1e' }, 'subnet-a2': { zone: 'eu-west-1a' }, 'subnet-b2': { zone: 'eu-west-1b' },
  'subnet-other': { zone: 'eu-west-1b', VpcId: 'vpc-2' },
  'subnet-own': { zone: 'eu-west-1a', default: { GatewayId: 'igw-1', State: 'active' } },
  'subnet-nat': { zone: 'eu-west-1a', MapPublicIpOnLaunch: false, default: { NatGatewayId: 'nat-1', State: 'active' } },
  'subnet-vpn': { zone: 'eu-west-1b', MapPublicIpOnLaunch: false, default: { GatewayId: 'vgw-1', State: 'active' } },
  'subnet-closed': { zone: 'eu-west-1b', default: null },
  'subnet-hole': { zone: 'eu-west-1b', default: { GatewayId: 'igw-0', State: 'blackhole' } },
  'subnet-dark': { zone: 'eu-west-1b', MapPublicIpOnLaunch: false },
  ...Object.fromEntries([2, 3, 7, 14, 15].map((free) => [`subnet-${free}`, { zone: 'eu-west-1a', AvailableIpAddressCount: free }])),
};
const OPEN = { DestinationCidrBlock: '0.0.0.0/0', GatewayId: 'igw-1', State: 'active' };
const LOCAL = { DestinationCidrBlock: '10.0.0.0/16', GatewayId: 'local', State: 'active' };
const TABLES = [
  // A table that no subnet has, and the main one of another VPC, must be of no effect.
  { VpcId: VPC, Associations: [], Routes: [OPEN, LOCAL] },
  { VpcId: 'vpc-9', Associations: [{ Main: true }], Routes: [LOCAL] },
  ...Object.entries(SUBNETS).filter(([, subnet]) => 'default' in subnet).map(([SubnetId, subnet]) => ({
    VpcId: VPC,
    Associations: [{ Main: false, SubnetId }],
    Routes: [LOCAL, { DestinationIpv6CidrBlock: '::/0', GatewayId: 'igw-1', State: 'active' },
      ...subnet.default ? [{ DestinationCidrBlock: '0.0.0.0/0', ...subnet.default }] : []],
  })),
  { VpcId: VPC, Associations: [{ Main: true }], Routes: [LOCAL, OPEN] },
  { VpcId: 'vpc-2', Associations: [{ Main: true }], Routes: [LOCAL, OPEN] },
];
const image = (Architecture, Name, RootDeviceName, VolumeSize) => ({
  Architecture, Name, RootDeviceName,
  BlockDeviceMappings: [{ DeviceName: '/dev/sdb', VirtualName: 'ephemeral0' }, { DeviceName: '/dev/sdc', Ebs: { VolumeSize: 900 } },
    { DeviceName: RootDeviceName, Ebs: { VolumeSize } }],
});
const UBUNTU = (cpu) => `ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-${cpu}-server-20260101`;
const IMAGES = {
  'ami-1': image('x86_64', 'al2023-ami-2023.9-kernel-6.12-x86_64', '/dev/xvda', 8),
  'ami-arm': image('arm64', 'al2023-ami-2023.9-kernel-6.12-arm64', '/dev/xvda', 8),
  'ami-ubuntu': image('x86_64', UBUNTU('amd64'), '/dev/sda1', 8),
  'ami-ubuntu-arm': image('arm64', UBUNTU('arm64'), '/dev/sda1', 8),
  'ami-big': image('x86_64', 'my-image', '/dev/xvda', 51),
};
const TYPES = {
  'c6a.xlarge': { Hypervisor: 'nitro', architectures: ['x86_64'], zones: 'abcde' },
  'c7g.xlarge': { Hypervisor: 'nitro', architectures: ['arm64'], zones: 'abcde' },
  'c8i.xlarge': { Hypervisor: 'nitro', architectures: ['x86_64'], zones: 'a' },
  'm5.metal': { BareMetal: true, architectures: ['x86_64'], zones: 'abcde' },
  't2.large': { Hypervisor: 'xen', architectures: ['i386', 'x86_64'], zones: 'abcde' },
};
const certificate = (names, Status = 'ISSUED', expires = '2099-01-01') => ({
  DomainName: names[0], SubjectAlternativeNames: names, Status, ...(Status !== 'PENDING_VALIDATION' && { NotAfter: new Date(expires) }),
});
const CERTIFICATES = {
  issued: certificate(['video.example.com', 'www.example.com']),
  wildcard: certificate(['*.example.com']),
  letter: certificate(['v.example.com']),
  pending: certificate(['video.example.com'], 'PENDING_VALIDATION'),
  expired: certificate(['video.example.com'], 'EXPIRED', '2020-02-03'),
  'expired-net': certificate(['video.example.net'], 'ISSUED', '2020-02-03'),
};

const snapshot = (address, more) => ({
  State: 'completed', VolumeSize: 100, Tags: [{ Key: 'Name', Value: 'data' }, ...address ? [{ Key: 'OpenViduPrivateIp', Value: address }] : []], ...more,
});
const SNAPSHOTS = {
  'snap-1': snapshot('10.0.0.11'), 'snap-2': snapshot('10.0.1.12'), 'snap-3': snapshot('10.0.0.13'), 'snap-4': snapshot('10.0.0.14'),
  'snap-pending': snapshot('10.0.0.14', { State: 'pending' }),
  'snap-large': snapshot('10.0.0.14', { VolumeSize: 500 }),
  'snap-bare': snapshot(),
};
// As S3 answers: nothing for us-east-1, and a name of its own for the oldest buckets of eu-west-1.
const BUCKETS = { mine: 'eu-west-1', 'mine-too': 'EU', american: undefined };

const ZONES = { Z1: 'example.com.', Z2: 'example.org.' };

const filter = (Filters, wanted) => {
  assert.deepEqual(Filters.map(({ Name }) => Name), [wanted]);
  const [{ Values }] = Filters;
  assert.ok(Values.length > 0, 'EC2 takes no filter without values');
  assert.equal(new Set(Values).size, Values.length);
  return Values;
};

// EC2 answers in an order of its own and in pages, the first of which may be empty.
const paged = (key, list, NextToken) => {
  const from = NextToken === undefined ? 0 : Number(NextToken.slice('page-'.length));
  const next = from + 1 <= list.length ? { NextToken: `page-${from + 1}` } : {};
  return { [key]: from ? list.slice(from - 1, from) : [], ...next };
};

const aws = (calls = {}) => ({
  DescribeSubnets: ({ Filters, NextToken, ...others }) => {
    assert.deepEqual(others, {});
    const ids = filter(Filters, 'subnet-id').filter((id) => id in SUBNETS).sort().reverse();
    return paged('Subnets', ids.map((SubnetId) => {
      const { zone: AvailabilityZone, default: _, ...more } = SUBNETS[SubnetId];
      return { SubnetId, AvailabilityZone, VpcId: VPC, MapPublicIpOnLaunch: true, AvailableIpAddressCount: 251, CidrBlock: '10.0.0.0/24', ...more };
    }), NextToken);
  },
  DescribeRouteTables: ({ Filters, NextToken, ...others }) => {
    assert.deepEqual(others, {});
    const [vpc] = filter(Filters, 'vpc-id');
    return paged('RouteTables', TABLES.filter(({ VpcId }) => VpcId === vpc), NextToken);
  },
  DescribeImages: ({ ImageIds, NextToken, ...others }) => {
    assert.deepEqual(others, { IncludeDeprecated: true });
    assert.equal(ImageIds.length, 1);
    if (!IMAGES[ImageIds[0]]) throw awsError('InvalidAMIID.NotFound', `The image id '[${ImageIds}]' does not exist`);
    return { Images: [{ ImageId: ImageIds[0], ...IMAGES[ImageIds[0]] }] };
  },
  DescribeInstanceTypes: ({ Filters, NextToken, ...others }) => {
    assert.deepEqual(others, {});
    return paged('InstanceTypes', filter(Filters, 'instance-type').filter((type) => TYPES[type]).sort().map((InstanceType) => {
      const { architectures: SupportedArchitectures, zones, ...more } = TYPES[InstanceType];
      return { InstanceType, ProcessorInfo: { SupportedArchitectures }, BareMetal: false, ...more };
    }), NextToken);
  },
  DescribeInstanceTypeOfferings: ({ Filters, LocationType, NextToken, ...others }) => {
    assert.deepEqual(others, {});
    assert.equal(LocationType, 'availability-zone');
    return paged('InstanceTypeOfferings', filter(Filters, 'instance-type').flatMap((InstanceType) => [...TYPES[InstanceType]?.zones || ''].map(
      (zone) => ({ InstanceType, LocationType, Location: `eu-west-1${zone}` }))), NextToken);
  },
  DescribeCertificate: ({ CertificateArn, ...others }) => {
    assert.deepEqual(others, {});
    assert.ok(CertificateArn.startsWith(`${ARN}/`), 'ACM answers for its own region, account and partition only');
    const name = CertificateArn.split('/')[1];
    if (name === 'malformed') throw awsError('InvalidArnException');
    if (!CERTIFICATES[name]) throw awsError('ResourceNotFoundException');
    return { Certificate: { CertificateArn, ...CERTIFICATES[name] } };
  },
  DescribeSnapshots: ({ Filters, NextToken, ...others }) => {
    assert.deepEqual(others, { OwnerIds: ['self'] });
    return paged('Snapshots', filter(Filters, 'snapshot-id').filter((id) => SNAPSHOTS[id]).sort().reverse().map(
      (SnapshotId) => ({ SnapshotId, ...SNAPSHOTS[SnapshotId] })), NextToken);
  },
  GetBucketLocation: ({ Bucket, ...others }) => {
    assert.deepEqual(others, {});
    if (!(Bucket in BUCKETS)) throw awsError('NoSuchBucket', 'The specified bucket does not exist');
    return { LocationConstraint: BUCKETS[Bucket] };
  },
  GetHostedZone: ({ Id, ...others }) => {
    assert.deepEqual(others, {});
    if (!ZONES[Id]) throw awsError('NoSuchHostedZone', `No hosted zone found with ID: ${Id}`);
    return { HostedZone: { Id: `/hostedzone/${Id}`, Name: ZONES[Id], Config: { PrivateZone: false } } };
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

// As CloudFormation sends them: numbers are texts, and what is not given is not there.
const sent = (changes) => JSON.parse(JSON.stringify({ ...TOKEN, ...properties(changes) }));
const checks = (now, before) => event('Checks', sent(now), before && sent(before));
const slots = (now, before, VolumeSnapshotIds = ['']) => event('Slots', { ...TOKEN, OpenViduMasterNodeSubnets: now, VolumeSnapshotIds },
  before && { ...TOKEN, OpenViduMasterNodeSubnets: before, VolumeSnapshotIds });

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
        [`Subnet${slot + 1}`, subnet], [`Zone${slot + 1}`, SUBNETS[subnet].zone]]));
      assert.deepEqual(await world.succeed(slots(given, before)), expected);
    });
  }
}

test('slots know nothing but the subnets of the Master Nodes', async (t) => {
  const world = await start(t, FILE, aws());
  await world.succeed(slots(['subnet-a', 'subnet-b']));
  assert.deepEqual([...new Set(world.calls.map(({ call }) => call))], ['DescribeSubnets']);
  assert.deepEqual(world.called('DescribeSubnets')[0].Filters, [{ Name: 'subnet-id', Values: ['subnet-a', 'subnet-b'] }]);
});

test('slots whose subnet does not exist fail and name it', async (t) => {
  const world = await start(t, FILE, aws());
  assert.equal(await world.fail(slots(['subnet-a', 'subnet-lost'])), "OpenViduMasterNodeSubnets: 'subnet-lost' does not exist.");
});

for (const before of [undefined, ['subnet-a']]) {
  test(`${before ? 'Update' : 'Create'} gives slots with snapshots these and the addresses that their data was written with`, async (t) => {
    const world = await start(t, FILE, aws());
    const ids = [' snap-3', 'snap-1', 'snap-4', 'snap-2'];
    const { Snapshot1, Snapshot2, Snapshot3, Snapshot4, PrivateIp1, PrivateIp2, PrivateIp3, PrivateIp4, Subnet4, Zone4 } = await world.succeed(
      slots(['subnet-a'], before, ids));
    assert.deepEqual([Snapshot1, Snapshot2, Snapshot3, Snapshot4], ids.map((id) => id.trim()));
    assert.deepEqual([PrivateIp1, PrivateIp2, PrivateIp3, PrivateIp4], ['10.0.0.13', '10.0.0.11', '10.0.0.14', '10.0.1.12']);
    assert.deepEqual([Subnet4, Zone4], ['subnet-a', 'eu-west-1a']);
  });

  for (const id of ['snap-lost', 'snap-bare']) {
    test(`${before ? 'Update' : 'Create'} of slots fails and names ${id}, whose address nobody knows`, async (t) => {
      const world = await start(t, FILE, aws());
      assert.equal(await world.fail(slots(['subnet-a'], before, ['snap-1', id, 'snap-3', 'snap-4'])),
        `VolumeSnapshotIds: '${id}' does not exist any more, or has no tag OpenViduPrivateIp.`);
    });
  }
}

const BALANCED = [
  { masters: ['subnet-a'], media: ['subnet-a'], main: 'subnet-a', turn: 'subnet-a' },
  { masters: ['subnet-c', 'subnet-a'], media: ['subnet-b', 'subnet-a'], main: 'subnet-c,subnet-a,subnet-b', turn: 'subnet-b,subnet-a' },
  { masters: ['subnet-b', 'subnet-b2', 'subnet-a2'], media: ['subnet-b2', 'subnet-a', 'subnet-b'],
    main: 'subnet-b,subnet-a2', turn: 'subnet-b2,subnet-a' },
  { masters: FIVE.slice(0, 4), media: ['subnet-e'], main: 'subnet-a,subnet-b,subnet-c,subnet-d,subnet-e', turn: 'subnet-e' },
  { masters: ['subnet-nat'], media: ['subnet-b'], given: ['subnet-a2', 'subnet-a', 'subnet-b', 'subnet-c'],
    main: 'subnet-a2,subnet-b,subnet-c', turn: 'subnet-a2,subnet-b,subnet-c' },
  { masters: ['subnet-a'], media: ['subnet-b'], given: [], main: 'subnet-a,subnet-b', turn: 'subnet-b' },
  { masters: ['subnet-a'], media: ['subnet-b'], given: [''], main: 'subnet-a,subnet-b', turn: 'subnet-b' },
];

for (const { masters, media, given, main, turn } of BALANCED) {
  test(`masters in ${masters}, media in ${media}, ${given ? `'${given}'` : 'nothing'} given: load balancers get one subnet a zone`, async (t) => {
    const world = await start(t, FILE, aws());
    const { LoadBalancerSubnets, TurnSubnets } = await world.succeed(checks(
      { OpenViduMasterNodeSubnets: masters, OpenViduMediaNodeSubnets: media, LoadBalancerSubnets: given }));
    assert.deepEqual([LoadBalancerSubnets, TurnSubnets], [main, turn]);
  });
}

const SPREAD = [
  { masters: ['subnet-a', 'subnet-b', 'subnet-c', 'subnet-d'],
    told: 'eu-west-1a 1, eu-west-1b 1, eu-west-1c 1, eu-west-1d 1; the loss of any one zone leaves service unaffected.' },
  { masters: ['subnet-a', 'subnet-b', 'subnet-c'],
    told: 'eu-west-1a 2, eu-west-1b 1, eu-west-1c 1; the loss of eu-west-1a stops storing recordings until it returns; the loss of eu-west-1b or eu-west-1c leaves service unaffected.' },
  { masters: ['subnet-b', 'subnet-a'], told: 'eu-west-1b 2, eu-west-1a 2; the loss of any one zone stops storing recordings until it returns.' },
  { masters: ['subnet-a', 'subnet-a2', 'subnet-b'],
    told: 'eu-west-1a 3, eu-west-1b 1; the loss of eu-west-1a interrupts service until it returns; the loss of eu-west-1b leaves service unaffected.' },
  { masters: ['subnet-c'], told: 'eu-west-1c 4; the loss of eu-west-1c interrupts service until it returns.' },
];

for (const { masters, told } of SPREAD) {
  test(`MasterNodeZones says what the loss of a zone means for masters in ${masters}`, async (t) => {
    const world = await start(t, FILE, aws());
    assert.equal((await world.succeed(checks({ OpenViduMasterNodeSubnets: masters }))).MasterNodeZones, `Master Nodes: ${told}`);
  });
}

for (const [id, device] of [['ami-1', '/dev/xvda'], ['ami-ubuntu', '/dev/sda1']]) {
  test(`the root device of ${id} is ${device}`, async (t) => {
    const world = await start(t, FILE, aws());
    assert.equal((await world.succeed(checks({ AmiId: id }, {}))).RootDeviceName, device);
  });
}

test('the checks answer four attributes', async (t) => {
  const world = await start(t, FILE, aws());
  assert.deepEqual(Object.keys(await world.succeed(checks())).sort(), ['LoadBalancerSubnets', 'MasterNodeZones', 'RootDeviceName', 'TurnSubnets']);
});

for (const { name, now, before, refused } of CASES) {
  test(`${name}: ${refused ? 'refused' : 'accepted'}`, async (t) => {
    const world = await start(t, FILE, aws());
    if (refused) {
      assert.equal(await world.fail(checks(now, before)), refused);
    } else {
      await world.succeed(checks(now, before));
      assert.deepEqual(world.called('DescribeStacks'), []);
    }
    assert.doesNotMatch(world.log, /not checked/);
  });

  if (refused && before) {
    test(`${name}: accepted in a rollback`, async (t) => {
      const world = await start(t, FILE, aws({
        DescribeStacks: () => ({ Stacks: [{ StackStatus: 'UPDATE_ROLLBACK_IN_PROGRESS' }] }),
      }));
      await world.succeed(checks(now, before));
    });
  }
}

for (const [name, DescribeStacks] of Object.entries({
  'may not be asked for': () => { throw awsError('AccessDenied'); },
  'is not found': () => ({ Stacks: [] }),
})) {
  test(`what is wrong is refused when the state of the stack ${name}`, async (t) => {
    const world = await start(t, FILE, aws({ DescribeStacks }));
    assert.match(await world.fail(checks({ DiskSize: '99' }, {})), /^DiskSize/);
  });
}

test('a repeated event is answered alike', async (t) => {
  const world = await start(t, FILE, aws());
  for (const one of [checks(), checks({}, {}), slots(['subnet-a', 'subnet-b'])]) {
    assert.deepEqual(await world.succeed(one), await world.succeed(one));
  }
});

// What each check needs, something that it would refuse, and how a run without it is logged.
const SKIPPED = {
  DescribeRouteTables: { now: { OpenViduMediaNodeSubnets: ['subnet-closed'] }, log: /routes not checked/ },
  GetHostedZone: { now: { HostedZoneId: 'Z9' }, log: /HostedZoneId not checked/ },
  DescribeInstanceTypes: { now: { MasterNodeInstanceType: 't2.large' }, log: /instance types not checked/ },
  DescribeInstanceTypeOfferings: { now: { MasterNodeInstanceType: 'c8i.xlarge' }, log: /zones of instance types not checked/ },
  DescribeCertificate: { now: { DomainName: 'a.example.org', TurnDomainName: 'b.example.org', TurnCertificateARN: `${ARN}/pending` },
    log: /OpenViduCertificateARN not checked[^]*TurnCertificateARN not checked/ },
  DescribeSnapshots: { now: { VolumeSnapshotIds: [...RESTORED.slice(0, 3), 'snap-lost'], RestoredSharedInfoArn: 'arn' }, log: /VolumeSnapshotIds not checked/ },
  GetBucketLocation: { now: { RecordingsStorage: 'S3', S3AppDataBucketName: 'american', S3ClusterDataBucketName: 'lost' },
    log: /S3AppDataBucketName not checked[^]*S3ClusterDataBucketName not checked/ },
};
const FAILURES = {
  'is not allowed': () => { throw awsError('UnauthorizedOperation'); },
  'is throttled': () => { throw awsError('RequestLimitExceeded'); },
  'fails at AWS': () => { throw awsError('InternalError'); },
  'answers nothing': () => undefined,
  'answers an empty object': () => ({}),
  'never returns': () => new Promise(() => {}),
};

for (const [call, { now, log }] of Object.entries(SKIPPED)) {
  test(`what ${call} tells is refused`, async (t) => {
    await (await start(t, FILE, aws())).fail(checks(now));
  });
  for (const [how, failing] of Object.entries(FAILURES)) {
    if (call === 'GetBucketLocation' && how === 'answers an empty object') continue; // means us-east-1, as the case above has it
    test(`a stack is built although ${call} ${how}, and the log says so`, { timeout: 5000 }, async (t) => {
      const world = await start(t, FILE, aws({ [call]: failing }));
      const { RootDeviceName } = await world.succeed(checks(now), 10501);
      assert.equal(RootDeviceName, '/dev/xvda');
      if (!['DescribeCertificate', 'GetHostedZone'].includes(call) || how !== 'answers an empty object') assert.match(world.log, log);
    });

    test(`all other problems are told although ${call} ${how}`, { timeout: 5000 }, async (t) => {
      const world = await start(t, FILE, aws({ [call]: failing }));
      assert.match(await world.fail(checks({ ...now, MinNumberOfMediaNodes: '10' }), 10501), /^MinNumberOfMediaNodes: '10' /);
    });
  }
}

// With another root device than the image's, nodes would get a second disk, and a first one that is too small.
for (const [how, DescribeImages] of Object.entries(FAILURES)) {
  test(`no root device is guessed when DescribeImages ${how}`, { timeout: 5000 }, async (t) => {
    const world = await start(t, FILE, aws({ DescribeImages }));
    assert.equal(await world.fail(checks({}, {}), 10501), "AmiId: 'ami-1' could not be read; try again.");
    assert.match(world.log, /AmiId not checked/);
    assert.match(await world.fail(checks({ MinNumberOfMediaNodes: '10' }), 10501), /^AmiId: 'ami-1' .* MinNumberOfMediaNodes: '10' /);
  });
}

test('a rollback goes on although the image cannot be read', async (t) => {
  const world = await start(t, FILE, aws({ DescribeImages: FAILURES['is throttled'],
    DescribeStacks: () => ({ Stacks: [{ StackStatus: 'UPDATE_ROLLBACK_IN_PROGRESS' }] }) }));
  assert.equal((await world.succeed(checks({}, {}))).RootDeviceName, '/dev/xvda');
});

test('a stack is built although nothing but image and zones can be learnt', { timeout: 5000 }, async (t) => {
  const { DescribeSubnets, DescribeImages } = aws();
  const world = await start(t, FILE, { DescribeSubnets, DescribeImages });
  assert.equal((await world.succeed(checks({ VolumeSnapshotIds: RESTORED, RestoredSharedInfoArn: 'arn',
    RecordingsStorage: 'S3', S3AppDataBucketName: 'lost' }))).LoadBalancerSubnets, 'subnet-a,subnet-b,subnet-c');
});

for (const [client, what] of [['acm', 'OpenViduCertificateARN'], ['s3', 'S3AppDataBucketName'], ['route-53', 'HostedZoneId']]) {
  test(`a runtime without the client of ${client} skips ${what}`, async (t) => {
    const world = await start(t, FILE, aws(), undefined, `@aws-sdk/client-${client}`);
    await world.succeed(checks({ RecordingsStorage: 'S3', S3AppDataBucketName: 'mine', HostedZoneId: 'Z1' }));
    assert.match(world.log, new RegExp(`${what} not checked`));
  });
}

const STRANGE = {
  'a table without associations and routes': { DescribeRouteTables: () => ({ RouteTables: [{}] }),
    refused: /^OpenViduMasterNodeSubnets: 'subnet-a,subnet-b,subnet-c' has no default route/ },
  'a type without a processor': { DescribeInstanceTypes: () => ({ InstanceTypes: [{ InstanceType: 'c6a.xlarge', Hypervisor: 'nitro' }] }) },
  'an image without devices': { DescribeImages: () => ({ Images: [{ Architecture: 'x86_64', RootDeviceName: '/dev/xvda' }] }) },
  'an imported certificate with names only': { DescribeCertificate: () => ({ Certificate: { Status: 'ISSUED', SubjectAlternativeNames: ['video.example.com'] } }) },
};
for (const [name, { refused, ...calls }] of Object.entries(STRANGE)) {
  test(`${name} does no harm`, async (t) => {
    const world = await start(t, FILE, aws(calls));
    if (refused) assert.match(await world.fail(checks()), refused);
    else await world.succeed(checks());
  });
}

for (const make of [checks, () => slots(['subnet-a'])]) {
  test(`${make().LogicalResourceId} fail with EC2's message when the zones cannot be learnt`, async (t) => {
    const world = await start(t, FILE, aws({ DescribeSubnets: () => { throw awsError('UnauthorizedOperation', 'You are not authorized'); } }));
    assert.equal(await world.fail(make()), 'You are not authorized');
  });
}

test('a message never exceeds 1,000 characters, keeps whole sentences, and says how many are left out', async (t) => {
  const world = await start(t, FILE, aws());
  const lengths = new Set();
  // Each step makes the message one character longer, until a sentence has to go.
  for (let length = 1; length <= 240; length++) {
    const [one, three] = ['x'.repeat(Math.min(length, 60)), `${'y'.repeat(Math.max(1, length - 60))}`];
    const reason = await world.fail(checks({
      OpenViduMasterNodeSubnets: ['subnet-lost', 'subnet-a'], OpenViduMediaNodeSubnets: ['subnet-gone'], DomainName: `${one}.${three}.example.org`,
      MinNumberOfMediaNodes: '9', MasterNodeInstanceType: 't2.large', MediaNodeInstanceType: 'c7g.xlarge', AmiId: 'ami-big', OpenViduCertificateARN: `${ARN}/expired` }));
    lengths.add(reason.length);
    assert.ok(reason.length <= 1000);
    assert.match(reason, /\.$/);
    const told = reason.match(/(?<=^|\. )\w+: '/g).length;
    const left = Number(/\. And (\d+) more\.$/.exec(reason)?.[1] ?? 0);
    assert.equal(told + left, 9, reason);
  }
  assert.ok(lengths.has(1000), `no message of exactly 1,000 characters: ${Math.max(...lengths)}`);
});

test('all of a good stack is learnt at once', async (t) => {
  let [open, most] = [0, 0];
  const slow = Object.fromEntries(Object.entries(aws()).map(([call, answer]) => [call, async (input) => {
    open += 1;
    most = Math.max(most, open);
    await new Promise((resolve) => { setTimeout(resolve, 20); });
    open -= 1;
    return answer(input);
  }]));
  const world = await start(t, FILE, slow);
  await world.succeed(checks({ TurnDomainName: 'turn.example.com', TurnCertificateARN: `${ARN}/wildcard`, VolumeSnapshotIds: RESTORED,
    RestoredSharedInfoArn: 'arn', RecordingsStorage: 'S3', S3AppDataBucketName: 'mine', S3ClusterDataBucketName: 'mine-too' }));
  assert.equal(most, 10, 'subnets, routes, image, types, offerings, snapshots, two certificates and two buckets');
});
