const assert = require('node:assert/strict');
const { randomUUID } = require('node:crypto');
const { test } = require('node:test');
const { ARN, FIVE, KEY, RESTORED, SECRET, VPC, preflight: CASES, properties } = require('./cases.js');
const { awsError, start, testFrame } = require('./harness.js');

const FILE = 'preflight.js';

// The account, in which the cases choose. Without more, a subnet is public, by the VPC's main route table.
const SUBNETS = {
  'subnet-a': { zone: 'eu-west-1a' }, 'subnet-b': { zone: 'eu-west-1b', CidrBlock: '10.0.1.0/24' }, 'subnet-c': { zone: 'eu-west-1c' },
  'subnet-d': { zone: 'eu-west-1d', CidrBlock: '10.0.0.0/29' }, 'subnet-e': { zone: 'eu-west-1e' }, 'subnet-a2': { zone: 'eu-west-1a' }, 'subnet-b2': { zone: 'eu-west-1b' },
  'subnet-other': { zone: 'eu-west-1b', VpcId: 'vpc-2' },
  'subnet-local': { zone: 'eu-west-1-dub-1a' }, 'subnet-wavelength': { zone: 'eu-west-1-wl1-dub-wlz-1' }, 'subnet-constrained': { zone: 'eu-west-1f' },
  'subnet-own': { zone: 'eu-west-1a', default: { GatewayId: 'igw-1', State: 'active' } },
  'subnet-nat': { zone: 'eu-west-1a', MapPublicIpOnLaunch: false, default: { NatGatewayId: 'nat-1', State: 'active' } },
  'subnet-vpn': { zone: 'eu-west-1b', MapPublicIpOnLaunch: false, default: { GatewayId: 'vgw-1', State: 'active' } },
  'subnet-closed': { zone: 'eu-west-1b', default: null },
  'subnet-hole': { zone: 'eu-west-1b', default: { GatewayId: 'igw-0', State: 'blackhole' } },
  'subnet-dark': { zone: 'eu-west-1b', MapPublicIpOnLaunch: false },
  ...Object.fromEntries([2, 3, 7, 14, 15].map((free) => [`subnet-${free}`, { zone: 'eu-west-1a', AvailableIpAddressCount: free }])),
};
const PLACES = [
  ...[...'abcde'].map((letter) => ({ ZoneName: `eu-west-1${letter}`, ZoneType: 'availability-zone', State: 'available' })),
  { ZoneName: 'eu-west-1f', ZoneType: 'availability-zone', State: 'constrained' },
  { ZoneName: 'eu-west-1-dub-1a', ZoneType: 'local-zone', State: 'available' },
  { ZoneName: 'eu-west-1-wl1-dub-wlz-1', ZoneType: 'wavelength-zone', State: 'available' },
];
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
  'c6a.xlarge': { Hypervisor: 'nitro', architectures: ['x86_64'], zones: 'abcdef' },
  'c7g.xlarge': { Hypervisor: 'nitro', architectures: ['arm64'], zones: 'abcdef' },
  'c8i.xlarge': { Hypervisor: 'nitro', architectures: ['x86_64'], zones: 'a' },
  'g5.xlarge': { Hypervisor: 'nitro', architectures: ['x86_64'], zones: 'abcdef' },
  'c7a.48xlarge': { Hypervisor: 'nitro', architectures: ['x86_64'], zones: 'abcdef', VCpuInfo: { DefaultVCpus: 192 } },
  'p5.48xlarge': { Hypervisor: 'nitro', architectures: ['x86_64'], zones: 'abcdef', VCpuInfo: { DefaultVCpus: 192 } },
  'm5.metal': { BareMetal: true, architectures: ['x86_64'], zones: 'abcdef' },
  't2.large': { Hypervisor: 'xen', architectures: ['i386', 'x86_64'], zones: 'abcdef' },
};
const certificate = (names, Status = 'ISSUED', expires = '2099-01-01') => ({
  DomainName: names[0], SubjectAlternativeNames: names, Status, ...(Status !== 'PENDING_VALIDATION' && { NotAfter: new Date(expires) }),
});
const CERTIFICATES = {
  issued: certificate(['video.example.com', 'www.example.com']),
  wildcard: certificate(['*.example.com']),
  letter: certificate(['v.example.com']),
  rsa3072: { ...certificate(['video.example.com']), KeyAlgorithm: 'RSA-3072' },
  rsa4096: { ...certificate(['video.example.com']), KeyAlgorithm: 'RSA_4096' },
  'rsa-4096': { ...certificate(['video.example.com']), KeyAlgorithm: 'RSA-4096' }, // ACM's own way to write it
  p521: { ...certificate(['video.example.com']), KeyAlgorithm: 'EC_secp521r1' },
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

// vCPUs: of the standard family a hundred run, of G and VT none.
const QUOTAS = { 'L-1216C47A': [1000, 100], 'L-DB2E81BA': [24, 0], 'L-417A185B': [0, 0] };

const ROLE = 'arn:aws:iam::111122223333:role/aws-service-role/autoscaling.amazonaws.com/AWSServiceRoleForAutoScaling';
const statement = (AWS, Action, Effect = 'Allow') => ({ Effect, Principal: AWS === '*' ? '*' : { AWS }, Action, Resource: '*' });
const USE = ['kms:Encrypt', 'kms:Decrypt', 'kms:ReEncrypt*', 'kms:GenerateDataKey*', 'kms:DescribeKey'];
const OWNER = statement('arn:aws:iam::111122223333:root', 'kms:*');
const KEYS = {
  good: { policy: [OWNER, statement([ROLE, 'arn:aws:iam::111122223333:role/other'], USE), statement(ROLE, 'kms:CreateGrant')] },
  anybody: { policy: statement('*', 'kms:*') }, // with conditions, as AWS writes its own
  granted: { policy: [OWNER], grants: ['Decrypt', 'GenerateDataKeyWithoutPlaintext', 'CreateGrant', 'DescribeKey'] },
  account: { policy: [OWNER] },
  grantless: { policy: [OWNER, statement(ROLE, USE)] },
  denied: { policy: [OWNER, statement(ROLE, 'kms:*', 'Deny')] },
  other: { policy: [statement('arn:aws:iam::111122223333:role/other', 'kms:*')] },
  disabled: { policy: [OWNER, statement(ROLE, 'kms:*')], KeyState: 'Disabled' },
  amazon: { policy: [], KeyManager: 'AWS' },
  asymmetric: { policy: [OWNER, statement(ROLE, 'kms:*')], KeySpec: 'RSA_4096' },
  hmac: { policy: [OWNER, statement(ROLE, 'kms:*')], KeySpec: 'HMAC_256', KeyUsage: 'GENERATE_VERIFY_MAC' },
};

const ZONES = { Z1: 'example.com.', Z2: 'example.org.', Z3: 'example.com.' };

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
  DescribeAvailabilityZones: (input) => {
    assert.deepEqual(input, { AllAvailabilityZones: true, NextToken: undefined });
    return { AvailabilityZones: PLACES };
  },
  GetEbsDefaultKmsKeyId: (input) => {
    assert.deepEqual(input, {});
    return { KmsKeyId: 'alias/aws/ebs' };
  },
  DescribeKey: ({ KeyId, ...others }) => {
    assert.deepEqual(others, {});
    const key = KEYS[KeyId.slice(KEY.length + 1)];
    if (!key) throw awsError('NotFoundException');
    return { KeyMetadata: { KeyId, KeyState: 'Enabled', KeyManager: 'CUSTOMER', KeySpec: 'SYMMETRIC_DEFAULT', KeyUsage: 'ENCRYPT_DECRYPT', ...key } };
  },
  GetKeyPolicy: ({ KeyId, PolicyName, ...others }) => {
    assert.deepEqual([PolicyName, others], ['default', {}]);
    return { Policy: JSON.stringify({ Version: '2012-10-17', Statement: KEYS[KeyId.slice(KEY.length + 1)].policy }) };
  },
  ListGrants: ({ KeyId, GranteePrincipal, ...others }) => {
    assert.deepEqual([GranteePrincipal, others], [ROLE, {}]);
    const { grants } = KEYS[KeyId.slice(KEY.length + 1)];
    return { Grants: grants ? [{ GranteePrincipal, Operations: grants }] : [] };
  },
  GetServiceQuota: ({ ServiceCode, QuotaCode, ...others }) => {
    assert.deepEqual([ServiceCode, others], ['ec2', {}]);
    if (!QUOTAS[QuotaCode]) throw awsError('NoSuchResourceException');
    return { Quota: { QuotaCode, Value: QUOTAS[QuotaCode][0],
      UsageMetric: { MetricNamespace: 'AWS/Usage', MetricName: 'ResourceCount', MetricDimensions: { Service: 'EC2', Class: QuotaCode } } } };
  },
  GetMetricStatistics: ({ Namespace, MetricName, Dimensions, StartTime, EndTime, Period, Statistics, ...others }) => {
    assert.deepEqual([Namespace, MetricName, Period, Statistics, others], ['AWS/Usage', 'ResourceCount', 300, ['Maximum'], {}]);
    assert.ok(EndTime - StartTime >= 15 * 60000 && (EndTime - StartTime) / 60000 / 5 <= 1440);
    const code = Dimensions.find(({ Name }) => Name === 'Class').Value;
    // In an order of its own; what ran before counts no more.
    return { Datapoints: [{ Timestamp: new Date(2000), Maximum: 999 }, { Timestamp: new Date(9000), Maximum: QUOTAS[code][1] }, { Timestamp: new Date(3000), Maximum: 999 }] };
  },
  DescribeNetworkInterfaces: ({ Filters, NextToken, ...others }) => {
    assert.deepEqual(others, {});
    assert.deepEqual(Filters.map(({ Name }) => Name), ['addresses.private-ip-address', 'subnet-id']);
    return paged('NetworkInterfaces', [], NextToken);
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
      return { InstanceType, ProcessorInfo: { SupportedArchitectures }, BareMetal: false, VCpuInfo: { DefaultVCpus: 4 }, ...more };
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
  GetBucketLocation: ({ Bucket, ExpectedBucketOwner, ...others }) => {
    assert.deepEqual([ExpectedBucketOwner, others], ['111122223333', {}]);
    if (Bucket === 'theirs') throw awsError('AccessDenied', 'Access Denied');
    if (!(Bucket in BUCKETS)) throw awsError('NoSuchBucket', 'The specified bucket does not exist');
    return { LocationConstraint: BUCKETS[Bucket] };
  },
  GetHostedZone: ({ Id, ...others }) => {
    assert.deepEqual(others, {});
    if (!ZONES[Id]) throw awsError('NoSuchHostedZone', `No hosted zone found with ID: ${Id}`);
    return { HostedZone: { Id: `/hostedzone/${Id}`, Name: ZONES[Id], Config: { PrivateZone: Id === 'Z3' } } };
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
  assert.deepEqual([...new Set(world.calls.map(({ call }) => call))], ['DescribeStacks', 'DescribeSubnets']);
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
    world.pause = 0.001; // a bucket of another account is asked for a minute long
    if (refused) {
      assert.equal(await world.fail(checks(now, before), 6e6), refused);
    } else {
      await world.succeed(checks(now, before));
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
  DescribeAvailabilityZones: { now: { OpenViduMediaNodeSubnets: ['subnet-constrained'] }, log: /kinds of zones not checked/ },
  GetEbsDefaultKmsKeyId: { now: {}, aws: { GetEbsDefaultKmsKeyId: () => ({ KmsKeyId: `${KEY}/account` }) }, log: /key of the volumes not checked/ },
  DescribeKey: { now: { KmsKeyArn: `${KEY}/disabled` }, log: /key of the volumes not checked/ },
  GetKeyPolicy: { now: { KmsKeyArn: `${KEY}/account` }, log: /key of the volumes not checked/ },
  ListGrants: { now: { KmsKeyArn: `${KEY}/account` }, log: /key of the volumes not checked/ },
  GetServiceQuota: { now: { MediaNodeInstanceType: 'g5.xlarge', MaxNumberOfMediaNodes: '7' }, log: /vCPU quotas not checked/ },
  GetMetricStatistics: { now: { MediaNodeInstanceType: 'c7a.48xlarge', InitialNumberOfMediaNodes: '5' }, log: /vCPUs in use not checked/ },
  DescribeSnapshots: { now: { VolumeSnapshotIds: [...RESTORED.slice(0, 3), 'snap-lost'], RestoredSharedInfoArn: SECRET }, log: /VolumeSnapshotIds not checked/ },
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

for (const [call, { now, log, aws: calls }] of Object.entries(SKIPPED)) {
  test(`what ${call} tells is refused`, async (t) => {
    await (await start(t, FILE, aws(calls))).fail(checks(now));
  });
  for (const [how, failing] of Object.entries(FAILURES)) {
    if (call === 'GetBucketLocation' && how === 'answers an empty object') continue; // means us-east-1, as the case above has it
    test(`a stack is built although ${call} ${how}, and the log says so`, { timeout: 5000 }, async (t) => {
      const world = await start(t, FILE, aws({ [call]: failing }));
      world.patience = 0.1;
      const { RootDeviceName } = await world.succeed(checks(now), 14000);
      assert.equal(RootDeviceName, '/dev/xvda');
      if (!['DescribeCertificate', 'GetHostedZone'].includes(call) || how !== 'answers an empty object') assert.match(world.log, log);
    });

    test(`all other problems are told although ${call} ${how}`, { timeout: 5000 }, async (t) => {
      const world = await start(t, FILE, aws({ [call]: failing }));
      world.patience = 0.1;
      assert.match(await world.fail(checks({ ...now, MinNumberOfMediaNodes: '10' }), 14000), /^MinNumberOfMediaNodes: '10' /);
    });
  }
}

// With another root device than the image's, nodes would get a second disk, and a first one that is too small.
for (const [how, DescribeImages] of Object.entries(FAILURES)) {
  test(`no root device is guessed when DescribeImages ${how}`, { timeout: 5000 }, async (t) => {
    const world = await start(t, FILE, aws({ DescribeImages }));
    world.patience = 0.1;
    assert.equal(await world.fail(checks({}, {}), 14000), "AmiId: 'ami-1' could not be read; try again.");
    assert.match(world.log, /AmiId not checked/);
    assert.match(await world.fail(checks({ MinNumberOfMediaNodes: '10' }), 14000), /^AmiId: 'ami-1' .* MinNumberOfMediaNodes: '10' /);
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
  assert.equal((await world.succeed(checks({ VolumeSnapshotIds: RESTORED, RestoredSharedInfoArn: SECRET,
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
    world.pause = 0.001;
    assert.equal(await world.fail(make(), 6e6), 'You are not authorized');
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
    RestoredSharedInfoArn: SECRET, RecordingsStorage: 'S3', S3AppDataBucketName: 'mine', S3ClusterDataBucketName: 'mine-too' }));
  assert.equal(most, 13, 'subnets, routes, zones, image, types, offerings, snapshots, key, quota, two certificates and two buckets');
});

// Four Master Nodes take the addresses of the snapshots, which a stack that is deleted may hold for a while.
const holding = (NetworkInterfaceId, SubnetId, PrivateIpAddress, Description) => (
  { NetworkInterfaceId, SubnetId, Description, PrivateIpAddresses: [{ PrivateIpAddress: '10.0.0.99' }, { PrivateIpAddress }] });

test('restored slots wait until their addresses are free', async (t) => {
  let asked = 0;
  const world = await start(t, FILE, aws({ DescribeNetworkInterfaces: ({ Filters }) => {
    assert.deepEqual(Filters, [{ Name: 'addresses.private-ip-address', Values: ['10.0.0.11', '10.0.1.12', '10.0.0.13', '10.0.0.14'] },
      { Name: 'subnet-id', Values: ['subnet-a', 'subnet-b'] }]);
    asked += 1;
    // The same address in another of the subnets is in nobody's way.
    return { NetworkInterfaces: [holding('eni-1', 'subnet-b', '10.0.0.11'), ...asked < 6 ? [holding('eni-2', 'subnet-b', '10.0.1.12')] : []] };
  } }));
  world.pause = 0.001;
  assert.equal((await world.succeed(slots(['subnet-a', 'subnet-b'], undefined, RESTORED), 6e6)).PrivateIp2, '10.0.1.12');
  assert.equal(asked, 6);
});

test('restored slots whose addresses stay in use fail, and tell by what', async (t) => {
  const world = await start(t, FILE, aws({ DescribeNetworkInterfaces: () => ({ NetworkInterfaces: [
    holding('eni-1', 'subnet-a', '10.0.0.11', 'ELB net/old/1'), holding('eni-4', 'subnet-b', '10.0.0.14', '')] }) }));
  Object.assign(world, { pause: 0.001, late: 1 });
  const reason = await world.fail(slots(['subnet-a', 'subnet-b'], undefined, RESTORED), 180000);
  assert.equal(reason, "VolumeSnapshotIds: '10.0.0.11' of Master Node 1 is in use by eni-1 (ELB net/old/1), "
    + "'10.0.0.14' of Master Node 4 is in use by eni-4; delete what uses it, then create the stack again.");
  const waited = world.waits.filter((ms) => ms === 10000).length;
  assert.ok(waited >= 12 && waited <= 17, `gave up after ${waited} times 10 s`);
});

for (const [what, event] of Object.entries({ 'an Update': slots(['subnet-a'], ['subnet-a'], RESTORED), 'new slots': slots(['subnet-a']) })) {
  test(`${what} does not ask who has the addresses`, async (t) => {
    const world = await start(t, FILE, aws());
    await world.succeed(event);
    assert.deepEqual(world.called('DescribeNetworkInterfaces'), []);
  });
}

const defaultKey = (name) => aws({ GetEbsDefaultKmsKeyId: () => ({ KmsKeyId: `${KEY}/${name}` }) });

// The roles of nodes may use the key that the template names, and no other.
test("Create refuses a customer's key as the account's default EBS key where it is not given as KmsKeyArn too", async (t) => {
  for (const key of ['good', 'account']) {
    const world = await start(t, FILE, defaultKey(key));
    assert.equal(await world.fail(checks()), `EBS default key: '${KEY}/${key}' is a customer managed key, which Master Nodes may not use unless the template knows it; give it as KmsKeyArn too.`);
  }
  const world = await start(t, FILE, defaultKey('good'));
  await world.succeed(checks({ KmsKeyArn: `${KEY}/good` }));
  await (await start(t, FILE, defaultKey('amazon'))).succeed(checks());
});

// Volumes keep their key; instances that are launched from now on get the new default.
test("Update asks of the account's default EBS key only that Auto Scaling can use it", async (t) => {
  for (const [key, refused] of [['good'], ['amazon'], ['account', 'kms:CreateGrant, kms:Decrypt, kms:GenerateDataKeyWithoutPlaintext']]) {
    const world = await start(t, FILE, defaultKey(key));
    if (!refused) await world.succeed(checks({}, {}));
    else assert.equal(await world.fail(checks({}, {})), `EBS default key: '${KEY}/${key}' does not let AWSServiceRoleForAutoScaling use ${refused}; allow that in the policy of the key.`);
    assert.doesNotMatch(world.log, /not checked/);
  }
});

test('an Update asks for no usage of quotas, which its own nodes are part of', async (t) => {
  const world = await start(t, FILE, aws());
  await world.succeed(checks({ MaxNumberOfMediaNodes: '6' }, {}));
  assert.deepEqual(world.called('GetMetricStatistics'), []);
});

for (const [type, code] of Object.entries({ 'm7i.large': 'L-1216C47A', 't3.large': 'L-1216C47A', 'im4gn.large': 'L-1216C47A', 'd3en.large': 'L-1216C47A', 'i4i.large': 'L-1216C47A',
  'h1.2xlarge': 'L-1216C47A', 'z1d.large': 'L-1216C47A', 'a1.large': 'L-1216C47A', 'r7g.large': 'L-1216C47A', 'g6.xlarge': 'L-DB2E81BA', 'gr6.4xlarge': 'L-DB2E81BA',
  'vt1.3xlarge': 'L-DB2E81BA', 'p4d.24xlarge': 'L-417A185B', 'f2.6xlarge': 'L-74FC7D96', 'x2idn.16xlarge': 'L-7295265B', 'inf2.xlarge': 'L-1945791B',
  'trn1.2xlarge': 'L-2C3B7624', 'dl1.24xlarge': 'L-6E869C2A', 'u-3tb1.56xlarge': 'L-43DA4232', 'u7i-6tb.112xlarge': 'L-43DA4232', 'hpc7a.12xlarge': 'L-F7808C92' })) {
  test(`the quota of ${type} is ${code}`, async (t) => {
    const world = await start(t, FILE, aws());
    await world.fail(checks({ MasterNodeInstanceType: type, MediaNodeInstanceType: type }));
    assert.deepEqual(world.called('GetServiceQuota').map(({ QuotaCode }) => QuotaCode), [code]);
  });
}
