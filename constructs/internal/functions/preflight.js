// Refuses what cannot work before anything costly is built, and looks up what CloudFormation cannot. The properties have the
// names of the template's parameters, which the messages tell.
const MASTERS = 'OpenViduMasterNodeSubnets';
const MEDIA = 'OpenViduMediaNodeSubnets';
const BALANCERS = 'LoadBalancerSubnets';
const SUBNETS = [MASTERS, MEDIA, BALANCERS];
const INSTANCES = ['MasterNodeInstanceType', 'MediaNodeInstanceType'];
const SNAPSHOTS = 'VolumeSnapshotIds';
const BUCKETS = ['S3AppDataBucketName', 'S3ClusterDataBucketName'];
// What cannot change, and what a change would do.
const FROZEN = {
  RetainVolumes: 'would replace the volumes by blank ones',
  KmsKeyArn: 'would replace the volumes',
  DomainName: 'is another domain: OpenVidu keeps its domain with its data, and no node would start under another',
  [SNAPSHOTS]: 'would replace the volumes',
  RestoredSharedInfoArn: 'counts at creation only',
  RecordingsStorage: 'would leave recordings behind',
  [BUCKETS[0]]: 'would leave recordings behind',
  [BUCKETS[1]]: 'would leave data behind',
};
// What a template without these parameters does.
const PLAIN = { RecordingsStorage: 'Volumes', [BUCKETS[0]]: '', [BUCKETS[1]]: '', [SNAPSHOTS]: '', RestoredSharedInfoArn: '', WarmPoolSize: 0, KmsKeyArn: '' };
// On-Demand quotas, in vCPUs, by the family of the instance type (Amazon EC2 User Guide, "Amazon EC2 instance type quotas").
const QUOTAS = [
  [/^u/, 'L-43DA4232'], [/^hpc/, 'L-F7808C92'], [/^inf/, 'L-1945791B'], [/^trn/, 'L-2C3B7624'], [/^dl/, 'L-6E869C2A'],
  [/^(g|vt)/, 'L-DB2E81BA'], [/^p/, 'L-417A185B'], [/^f/, 'L-74FC7D96'], [/^x/, 'L-7295265B'], [/^[acdhimrtz]/, 'L-1216C47A'],
];
const quotaOf = (instanceType) => QUOTAS.find(([family]) => family.test(instanceType))?.[1];
const COUNTS = ['InitialNumberOfMediaNodes', 'MaxNumberOfMediaNodes'];
// The kind of key that EBS and Secrets Manager take (Amazon EBS User Guide, "How Amazon EBS encryption works"; AWS Secrets Manager User
// Guide, "Secret encryption and decryption in AWS Secrets Manager").
const SYMMETRIC = 'SYMMETRIC_DEFAULT for ENCRYPT_DECRYPT';
// What Auto Scaling does with the key of a volume (Amazon EC2 Auto Scaling User Guide, "Required AWS KMS key policy for use with
// encrypted volumes").
const KEY_USE = ['kms:CreateGrant', 'kms:Decrypt', 'kms:GenerateDataKeyWithoutPlaintext'];

const CERTIFICATES = [['OpenViduCertificateARN', 'DomainName'], ['TurnCertificateARN', 'TurnDomainName']];

// Fewer than four subnets are cycled over the four slots.
const slots = (subnets) => [0, 1, 2, 3].map((slot) => subnets[slot % subnets.length]);

const listOf = (properties, parameter) => (properties[parameter] || []).map((one) => one.trim()).filter(Boolean);

// describe gives all pages of EC2's Describe<what>.
const describe = async (what, input, options) => {
  const found = [];
  let NextToken;
  do {
    const page = await aws('EC2', `Describe${what}`, { ...input, NextToken }, options);
    found.push(...page[what]);
    NextToken = page.NextToken;
  } while (NextToken);
  return found;
};

// A filter, unlike a list of ids, lets EC2 answer for those that exist.
const matching = (Name, Values) => ({ Filters: [{ Name, Values: [...new Set(Values)] }] });

const describeSubnets = async (ids) => new Map(
  (await describe('Subnets', matching('subnet-id', ids))).map((subnet) => [subnet.SubnetId, subnet]));

// The snapshots of the slots, in their order; EC2 answers in an order of its own.
const describeSnapshots = async (ids, options) => {
  // Of this account: a filter alone would go through all that are public.
  const found = ids.length ? await describe('Snapshots', { OwnerIds: ['self'], ...matching('snapshot-id', ids) }, options) : [];
  return ids.map((id) => found.find(({ SnapshotId }) => SnapshotId === id));
};

// The address that the data of a snapshot was written with: a tag of the volume, which the snapshot carries on.
const privateIp = (snapshot) => snapshot?.Tags?.find(({ Key }) => Key === 'OpenViduPrivateIp')?.Value;

// inside tells whether an IPv4 address is of a range like 10.0.1.0/24.
const inside = (ip, range) => {
  const [first, bits] = range.split('/');
  const [one, other] = [ip, first].map((text) => Math.floor(text.split('.').reduce((sum, part) => sum * 256 + +part, 0) / 2 ** (32 - bits)));
  return one === other;
};

// What a call says that is no failure of ours but the answer: there is no such thing.
const orElse = (names, value, call) => call.catch((error) => {
  if (names.test(error.name)) return value;
  throw error;
});

const describeCertificate = (CertificateArn, options) => orElse(/^(ResourceNotFound|InvalidArn)/, null,
  aws('ACM', 'DescribeCertificate', { CertificateArn }, options).then(({ Certificate }) => Certificate));

// The region of a bucket of this account; false where S3 does not tell, as for a bucket of another account.
const bucketRegion = (Bucket, ExpectedBucketOwner, options) => orElse(/^NoSuchBucket/, null, orElse(/^AccessDenied/, false,
  aws('S3', 'GetBucketLocation', { Bucket, ExpectedBucketOwner }, { ...options, config: { followRegionRedirects: true } })
    .then(({ LocationConstraint: where }) => (where === 'EU' ? 'eu-west-1' : where || 'us-east-1'))));

const hostedZone = (Id, options) => orElse(/^(NoSuchHostedZone|InvalidInput)/, null,
  aws('Route53', 'GetHostedZone', { Id }, options).then(({ HostedZone }) => HostedZone));

const many = (one) => (Array.isArray(one) ? one : [one].filter(Boolean));

// The key that volumes are encrypted with, if it is a customer's, its state, and what it does not let Auto Scaling do: key
// policies name Auto Scaling's role, or grants do. Conditions are not looked at.
const volumeKey = async (given, role, options) => {
  const KeyId = given || (await aws('EC2', 'GetEbsDefaultKmsKeyId', {}, options)).KmsKeyId;
  if (/(^|:)alias\/aws\//.test(KeyId)) return { state: 'Enabled', lacks: [] };
  const { KeyMetadata: { KeyState: state, KeyManager: manager, KeySpec, KeyUsage } } = await orElse(/^NotFound/,
    { KeyMetadata: { KeyState: 'not there' } }, aws('KMS', 'DescribeKey', { KeyId }, options));
  const kind = KeySpec && `${KeySpec} for ${KeyUsage}`;
  if (state !== 'Enabled' || kind !== SYMMETRIC || manager === 'AWS') return { id: KeyId, state, manager, kind, lacks: [] };
  const [{ Policy }, { Grants }] = await Promise.all([
    aws('KMS', 'GetKeyPolicy', { KeyId, PolicyName: 'default' }, options),
    aws('KMS', 'ListGrants', { KeyId, GranteePrincipal: role }, options)]);
  const allowed = many(JSON.parse(Policy).Statement)
    .filter(({ Effect, Principal: who, NotPrincipal }) => Effect === 'Allow'
      && (NotPrincipal || who === '*' || many(who?.AWS).some((one) => one === '*' || one === role)))
    .flatMap(({ Action, NotAction }) => (NotAction ? ['*'] : many(Action)))
    .concat(Grants.flatMap(({ Operations }) => Operations.map((one) => `kms:${one}`)));
  const matches = (pattern, action) => new RegExp(`^${pattern.replaceAll('*', '.*').replaceAll('?', '.')}$`, 'i').test(action);
  return { id: KeyId, state, manager, kind, lacks: KEY_USE.filter((action) => !allowed.some((pattern) => matches(pattern, action))) };
};

// The quota of a code, and how much of it runs (CloudWatch knows it some minutes later).
const readQuota = async (QuotaCode, withUsage, attempt, options) => {
  const { Quota } = await aws('ServiceQuotas', 'GetServiceQuota', { ServiceCode: 'ec2', QuotaCode }, options);
  const { MetricNamespace: Namespace, MetricName, MetricDimensions } = Quota.UsageMetric || {};
  const running = withUsage && Namespace && await attempt('vCPUs in use', async () => {
    const [now, minute] = [Date.now(), 60000];
    const { Datapoints } = await aws('CloudWatch', 'GetMetricStatistics', { Namespace, MetricName, Period: 300, Statistics: ['Maximum'],
      Dimensions: Object.entries(MetricDimensions).map(([Name, Value]) => ({ Name, Value })),
      StartTime: new Date(now - 30 * minute), EndTime: new Date(now) }, options);
    return Datapoints.sort((one, other) => other.Timestamp - one.Timestamp)[0]?.Maximum;
  });
  return { limit: Quota.Value, running: running || 0 };
};

// The rule of TLS: a wildcard stands for exactly one label, the left-most.
const covers = (name, domain) => {
  const [pattern, wanted] = [name.toLowerCase(), domain.toLowerCase()];
  return pattern === wanted || (pattern.startsWith('*.') && pattern.slice(1) === wanted.slice(wanted.indexOf('.')));
};

// One subnet a zone, the first of each: a network load balancer takes no two of one zone.
const onePerZone = (subnets, ids) => {
  const firsts = new Map();
  for (const id of ids) {
    const zone = subnets.get(id)?.AvailabilityZone;
    if (zone && !firsts.has(zone)) firsts.set(zone, id);
  }
  return [...firsts.values()];
};

// problems, the gravest first: what would lose data, then what makes all else moot. Facts that are undefined could not be
// learnt, null says that there is no such thing.
const problems = (now, before, { region, account, prefix, secrets }, facts, [main, turn]) => {
  const { subnets, tables, places, image, types, offers, restored, zone, key, quotas, certificates, buckets } = facts;
  const found = [];
  const say = (parameter, text, value = now[parameter]) => {
    found.push(`${parameter}: '${`${value}`.slice(0, 200)}' ${text}.`);
  };
  const lists = Object.fromEntries(SUBNETS.map((parameter) => [parameter, listOf(now, parameter)]));
  const [masters, media, given] = Object.values(lists);

  if (before) {
    const [is, was] = [slots(masters), slots(listOf(before, MASTERS))];
    const moved = is.flatMap((id, slot) => (id === was[slot] ? [] : slot + 1));
    const back = (parameter, text) => say(parameter, `${text}; go back to '${before[parameter]}'`);
    if (moved.length) back(MASTERS, `would take Master Nodes ${moved} from their IPs and data`);
    for (const [parameter, text] of Object.entries(FROZEN)) {
      if (before[parameter] !== undefined && `${now[parameter]}` !== `${before[parameter]}`) back(parameter, text);
    }
    if (+now.DiskSize < +before.DiskSize) say('DiskSize', `is less than the volumes have; give ${before.DiskSize} or more`);
    if (now.OpenViduVPC !== before.OpenViduVPC) back('OpenViduVPC', 'is another VPC, to which a cluster cannot move');
  }

  if (masters.length < 1 || masters.length > 4) say(MASTERS, `has ${masters.length} subnets; choose 1 to 4`);
  if (new Set(masters).size < masters.length) say(MASTERS, 'names a subnet twice; name each once');
  if (!media.length) say(MEDIA, 'has no subnet; choose one or more');

  // A subnet is refused once for one reason, however many parameters name it.
  const refuse = (parameters, text, wrong) => {
    const told = new Set();
    for (const parameter of parameters) {
      const bad = new Set(lists[parameter].filter((id) => !told.has(id) && wrong(subnets.get(id))));
      if (bad.size) say(parameter, text, [...bad]);
      bad.forEach((id) => told.add(id));
    }
    // Nothing else is worth saying of a subnet that cannot be used at all.
    if (parameters === SUBNETS) for (const one of SUBNETS) lists[one] = lists[one].filter((id) => !told.has(id));
  };
  refuse(SUBNETS, `does not exist in ${region}; choose subnets of OpenViduVPC`, (subnet) => !subnet);
  refuse(SUBNETS, `is not in OpenViduVPC ${now.OpenViduVPC}; choose subnets of it`, ({ VpcId }) => VpcId !== now.OpenViduVPC);

  // Where a load balancer cannot be (User Guide for Network Load Balancers, "Update the Availability Zones"): a zone that is none
  // of the region's own, and one that is constrained, which it reaches from the others all the same.
  const zoneOf = (id) => places?.find(({ ZoneName }) => ZoneName === subnets.get(id)?.AvailabilityZone);
  const kind = (subnet) => (zoneOf(subnet.SubnetId)?.ZoneType || 'availability-zone');
  refuse(SUBNETS, 'is in a local zone or Wavelength Zone, where no load balancer can be; choose subnets of the region\'s own zones',
    (subnet) => kind(subnet) !== 'availability-zone');
  const constrained = (id) => zoneOf(id)?.State === 'constrained';
  refuse(given.length ? [BALANCERS] : [MASTERS, MEDIA], given.length ? 'is in a constrained zone, where no load balancer can be; leave it out'
    : 'is in a constrained zone, where no load balancer can be; choose another subnet, or give LoadBalancerSubnets in other zones',
  (subnet) => constrained(subnet.SubnetId));

  // The default route in a subnet's own table or, where it has none, in the VPC's main one.
  const route = ({ SubnetId }) => {
    const table = (wanted) => tables?.find(({ Associations }) => Associations?.some(wanted));
    return (table((one) => one.SubnetId === SubnetId) || table((one) => one.Main))?.Routes?.find(
      (one) => one.DestinationCidrBlock === '0.0.0.0/0' && one.State !== 'blackhole');
  };
  const open = (subnet) => route(subnet)?.GatewayId?.startsWith('igw-');
  const nodes = [MASTERS, MEDIA];
  if (tables) {
    refuse(given.length ? [BALANCERS] : nodes,
      'has no default route to an internet gateway; add 0.0.0.0/0 to its route table, or choose a public subnet', (subnet) => !open(subnet));
    if (given.length) refuse(nodes, 'has no default route; add 0.0.0.0/0 to a NAT gateway to its route table', (subnet) => !route(subnet));
  }
  refuse(nodes, 'does not auto-assign public IPv4 addresses; enable that, or choose another subnet',
    (subnet) => !subnet.MapPublicIpOnLaunch && (!given.length || open(subnet)));
  const zonesOf = (ids) => [...new Set(ids.map((id) => subnets.get(id)?.AvailabilityZone))].filter(Boolean);
  const bare = given.length ? zonesOf([...masters, ...media].filter((id) => !constrained(id))).filter((zone) => !zonesOf(given).includes(zone)) : [];
  if (bare.length) say(BALANCERS, `has no subnet in ${bare}, where nodes are; add a public one of each zone`);

  // Addresses: 8 for a load balancer, 2 for a slot, 1 for a Media Node, also a stopped one. A running cluster has its own already.
  const need = {};
  const add = (ids, count) => ids.forEach((id) => { need[id] = (need[id] || 0) + count; });
  add(main, 8);
  if (now.TurnCertificateARN) add(turn, 8);
  add(slots(masters), 2);
  add(media, Math.max(1, Math.ceil((+now.MaxNumberOfMediaNodes + +now.WarmPoolSize) / media.length)));
  if (before) SUBNETS.forEach((parameter) => listOf(before, parameter).forEach((id) => { need[id] = 0; }));
  for (const parameter of SUBNETS) {
    for (const id of lists[parameter]) {
      const { AvailableIpAddressCount } = subnets.get(id);
      if (AvailableIpAddressCount < need[id]) say(parameter, `has ${AvailableIpAddressCount} free addresses and needs ${need[id]}; choose a larger subnet`, id);
      need[id] = 0;
    }
  }

  for (const [i, [parameter, domain]] of CERTIFICATES.entries()) {
    if (!now[parameter]) continue;
    if (!now[parameter].startsWith(prefix)) say(parameter, `is not of ${region} and account ${account}; request or import one there`);
    if (certificates[i] === null) say(parameter, 'does not exist; choose a certificate that does');
    if (!certificates[i]) continue;
    const { SubjectAlternativeNames: names, Status, NotAfter, KeyAlgorithm } = certificates[i];
    // The listener would be there, and never work (User Guide for Network Load Balancers, "Server certificates").
    if (/^RSA[-_](\d+)$/.exec(KeyAlgorithm)?.[1] > 3072) say(parameter, `has the key ${KeyAlgorithm}, which no network load balancer takes; choose RSA 2048, RSA 3072 or an elliptic curve`);
    if (NotAfter <= new Date()) say(parameter, `expired on ${NotAfter.toISOString().slice(0, 10)}; renew it, or choose another`);
    else if (Status !== 'ISSUED') say(parameter, `is ${Status}; choose a certificate that is ISSUED`);
    if (names && !names.some((name) => covers(name, now[domain]))) {
      say(parameter, `covers ${names.join(', ').slice(0, 200)}, not ${domain} ${now[domain]}; choose one that does`);
    }
  }
  if (zone === null) say('HostedZoneId', 'does not exist; give a zone of this account, or nothing');
  if (zone?.Config?.PrivateZone) say('HostedZoneId', 'is a private zone, which clients outside of its VPCs do not see; give a public one, or nothing');
  for (const domain of zone ? ['DomainName', 'TurnDomainName'] : []) {
    if (now[domain] && !`.${now[domain]}.`.toLowerCase().endsWith(`.${zone.Name}`)) {
      say('HostedZoneId', `is ${zone.Name}, which ${domain} ${now[domain]} is not in; give another, or nothing`);
    }
  }
  if (now.TurnDomainName?.toLowerCase() === now.DomainName.toLowerCase()) say('TurnDomainName', 'is DomainName; give TURN a name of its own');

  const architectures = [];
  for (const [i, parameter] of INSTANCES.entries()) {
    const type = types?.find(({ InstanceType }) => InstanceType === now[parameter]);
    if (types && !type) {
      say(parameter, `does not exist in ${region}; choose another instance type`);
      continue;
    }
    const without = offers ? zonesOf(lists[nodes[i]]).filter((zone) => !offers.some(
      ({ InstanceType, Location }) => InstanceType === now[parameter] && Location === zone)) : [];
    if (without.length) say(parameter, `is not offered in ${without}; choose another instance type, or other ${nodes[i]}`);
    if (!type) continue;
    if (type.Hypervisor !== 'nitro' && !type.BareMetal) say(parameter, 'is not of the Nitro System; choose one that is, like c6a.xlarge');
    architectures.push(...[type.ProcessorInfo?.SupportedArchitectures].filter(Boolean));
  }
  // What the instance types have in common; nothing is known of those that are not known.
  const [ofMasters, ofMedia = ofMasters] = architectures;
  const common = ofMasters?.filter((one) => ofMedia.includes(one));
  if (common && !common.length) {
    say(INSTANCES[1], `is ${ofMedia}, ${INSTANCES[0]} ${now[INSTANCES[0]]} is ${ofMasters}; choose both of one architecture`);
  } else if (image && common && !common.includes(image.Architecture)) {
    const arm = common.includes('arm64');
    say('AmiId', `is for ${image.Architecture}, the instance types are ${common}; give ${/ubuntu/i.test(image.Name)
      ? `/aws/service/canonical/ubuntu/server/24.04/stable/current/${arm ? 'arm' : 'amd'}64/hvm/ebs-gp3/ami-id`
      : `/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-${arm ? 'arm64' : 'x86_64'}`}`);
  }
  // Its root device shapes the nodes: a guess could give them a disk too small.
  if (image === undefined) say('AmiId', 'could not be read; try again');
  if (image === null) say('AmiId', 'does not exist, or not for this account; give the SSM parameter of another image');
  const size = image?.BlockDeviceMappings?.find(({ DeviceName }) => DeviceName === image.RootDeviceName)?.Ebs?.VolumeSize;
  for (const parameter of ['MasterNodeRootVolumeSize', 'MediaNodeRootVolumeSize']) {
    if (size > now[parameter]) say(parameter, `is less than the ${size} GB of the image; give ${size} or more`);
  }

  // No node starts without its disk, and Auto Scaling alone knows why.
  if (now.KmsKeyArn && now.KmsKeyArn.split(':')[3] !== region) say('KmsKeyArn', `is not of ${region}; give a key of this region, or nothing`);
  if (key?.state !== undefined) {
    const name = now.KmsKeyArn ? 'KmsKeyArn' : 'EBS default key';
    if (key.state !== 'Enabled') say(name, `is ${key.state}; volumes need a key that is Enabled`, key.id);
    else if (key.kind && key.kind !== SYMMETRIC) say(name, `is ${key.kind}; volumes need ${SYMMETRIC}`, key.id);
    else if (key.manager === 'AWS' && now.KmsKeyArn) say(name, 'is managed by AWS for one service; volumes and secrets need a customer managed key', key.id);
    else if (key.manager === 'CUSTOMER' && !now.KmsKeyArn && !before) say(name, 'is a customer managed key, which Master Nodes may not use unless the template knows it; give it as KmsKeyArn too', key.id);
    else if (key.lacks.length) say(name, `does not let AWSServiceRoleForAutoScaling use ${key.lacks.join(', ')}; allow that in the policy of the key`, key.id);
  }

  // Launches beyond a quota fail. A running cluster is asked only when it shall grow.
  const cpus = INSTANCES.map((parameter) => types?.find(({ InstanceType }) => InstanceType === now[parameter])?.VCpuInfo?.DefaultVCpus);
  const grows = !before || [...INSTANCES, ...COUNTS].some((parameter) => now[parameter] !== before[parameter]);
  for (const code of grows ? new Set(INSTANCES.map((parameter) => quotaOf(now[parameter]))) : []) {
    const quota = quotas?.[code];
    if (!quota) continue;
    const [ofMaster, ofMedia] = INSTANCES.map((parameter, i) => (quotaOf(now[parameter]) === code ? cpus[i] : 0));
    const [atFirst, atMost] = COUNTS.map((parameter) => 4 * ofMaster + (ofMedia ? ofMedia * now[parameter] : 0));
    const [first, most] = ofMedia ? COUNTS : [INSTANCES[0], INSTANCES[0]];
    const where = `On-Demand quota ${code} of ${region}`;
    if (!before && atFirst + quota.running > quota.limit) {
      say(first, `takes ${atFirst} vCPUs${ofMaster && ofMedia ? ' with the Master Nodes' : ''}; ${quota.running} of the ${quota.limit} in ${where} are in use. Request more in Service Quotas, or choose less`);
    } else if (atMost > quota.limit) {
      say(most, `takes ${atMost} vCPUs${ofMaster && ofMedia ? ' with the Master Nodes' : ''}, more than the ${quota.limit} of ${where}; request more in Service Quotas, or choose less`);
    }
  }

  const secret = now.RestoredSharedInfoArn;
  if (secret && !before && !secret.startsWith(secrets)) say('RestoredSharedInfoArn', `is not of ${region} and account ${account}; copy the secret there`);
  const ids = listOf(now, SNAPSHOTS);
  if (ids.length && !before) {
    if (ids.length !== 4) say(SNAPSHOTS, `has ${ids.length} snapshots; give four, of Master Nodes 1 to 4`);
    if (!now.RestoredSharedInfoArn) say('RestoredSharedInfoArn', 'is missing; the data in the snapshots needs the credentials that it was written with');
    for (const [i, id] of ids.entries()) {
      const snapshot = restored?.[i];
      if (restored && !snapshot) say(SNAPSHOTS, `does not exist in ${region}; choose snapshots that do`, id);
      if (!snapshot) continue;
      if (snapshot.State !== 'completed') say(SNAPSHOTS, `is ${snapshot.State}; wait until it is completed`, id);
      if (snapshot.VolumeSize > now.DiskSize) say('DiskSize', `is less than snapshot ${id} has; give ${snapshot.VolumeSize} or more`);
      const [ip, range] = [privateIp(snapshot), subnets.get(slots(masters)[i])?.CidrBlock];
      if (!ip) say(SNAPSHOTS, 'has no tag OpenViduPrivateIp; give it the private IP of its Master Node', id);
      else if (range && !inside(ip, range)) say(SNAPSHOTS, `is of ${ip}, which is not in ${range} of Master Node ${i + 1}; correct the order, or the subnets`, id);
    }
  }
  for (const [i, parameter] of BUCKETS.entries()) {
    if (!now[parameter]) continue;
    if (now.RecordingsStorage !== 'S3') say(parameter, 'is not used while RecordingsStorage is Volumes; choose S3, or give nothing');
    if (buckets[i] === null) say(parameter, 'does not exist; give the name of a bucket that does, or nothing');
    else if (buckets[i] === false) say(parameter, `is not of account ${account}, or closed to it; give a bucket of this account, or nothing`);
    else if (buckets[i] && buckets[i] !== region) say(parameter, `is in ${buckets[i]}; give a bucket of ${region}`);
  }
  if (now[BUCKETS[1]] && now[BUCKETS[0]] === now[BUCKETS[1]]) say(BUCKETS[1], `is ${BUCKETS[0]}; give another bucket`);

  const [initial, low, high] = ['Initial', 'Min', 'Max'].map((which) => +now[`${which}NumberOfMediaNodes`]);
  if (low > high) say('MinNumberOfMediaNodes', `is more than MaxNumberOfMediaNodes ${high}; give ${high} or less`);
  else if (initial < low || initial > high) {
    say('InitialNumberOfMediaNodes', `is not from MinNumberOfMediaNodes to MaxNumberOfMediaNodes; give ${low} to ${high}`);
  }
  return found;
};

// As many problems as 1,000 characters hold, and how many more there are.
const tell = (found) => {
  for (let kept = found.length; ; kept--) {
    const text = found.slice(0, kept).join(' ') + (kept < found.length ? ` And ${found.length - kept} more.` : '');
    if (text.length <= 1000) return text;
  }
};

// What OpenVidu promises for one, two, and more Master Nodes lost.
const EFFECTS = ['leaves service unaffected', 'stops storing recordings until it returns', 'interrupts service until it returns'];
const spread = (zones) => {
  const [counts, losses] = [new Map(), new Map()];
  for (const zone of zones) counts.set(zone, (counts.get(zone) || 0) + 1);
  for (const [zone, count] of counts) {
    const effect = EFFECTS[Math.min(count, 3) - 1];
    losses.set(effect, [...losses.get(effect) || [], zone]);
  }
  const told = [...losses].map(([effect, lost]) => (
    `the loss of ${lost.length > 1 && losses.size < 2 ? 'any one zone' : lost.join(' or ')} ${effect}`));
  return `Master Nodes: ${[...counts].map((one) => one.join(' ')).join(', ')}; ${told.join('; ')}.`;
};

// Waits until nobody has the addresses that the restored Master Nodes take: a stack that is deleted, or the load balancers of
// it, let go of them late.
const waitForAddresses = async (ips, subnets, deadline) => {
  for (;;) {
    const interfaces = await describe('NetworkInterfaces', { Filters: [
      ...matching('addresses.private-ip-address', ips).Filters, ...matching('subnet-id', subnets).Filters] });
    const held = ips.flatMap((ip, slot) => interfaces.filter(({ SubnetId, PrivateIpAddresses }) => (
      SubnetId === subnets[slot] && PrivateIpAddresses?.some((one) => one.PrivateIpAddress === ip)))
      .map(({ NetworkInterfaceId: id, Description }) => `'${ip}' of Master Node ${slot + 1} is in use by ${id}${Description ? ` (${Description})` : ''}`));
    if (!held.length) return;
    if (Date.now() + 15000 > deadline) throw new Error(`${SNAPSHOTS}: ${held.join(', ')}; delete what uses it, then create the stack again.`);
    await pause(10000);
  }
};

// Custom::OpenViduSlots: a resource of its own, so that no other parameter makes interfaces and volumes look replaceable.
const place = async ({ RequestType, ResourceProperties }, left) => {
  const deadline = Date.now() + left;
  const [masters, restored] = [MASTERS, SNAPSHOTS].map((parameter) => listOf(ResourceProperties, parameter));
  const [subnets, found] = await Promise.all([describeSubnets(masters), describeSnapshots(restored)]);
  const ips = [];
  const placed = slots(masters).flatMap((id, slot) => {
    if (!subnets.has(id)) throw new Error(`${MASTERS}: '${id}' does not exist.`);
    const where = [[`Subnet${slot + 1}`, id], [`Zone${slot + 1}`, subnets.get(id).AvailabilityZone]];
    if (!restored.length) return where;
    const ip = privateIp(found[slot]);
    if (!ip) throw new Error(`${SNAPSHOTS}: '${restored[slot]}' does not exist any more, or has no tag OpenViduPrivateIp.`);
    ips.push(ip);
    return [...where, [`Snapshot${slot + 1}`, restored[slot]], [`PrivateIp${slot + 1}`, ip]];
  });
  // Later they are in use by the cluster itself.
  if (ips.length && RequestType === 'Create') await waitForAddresses(ips, slots(masters), deadline);
  return Object.fromEntries(placed);
};

exports.work = async (event, { left, rollingBack }) => {
  const now = { ...PLAIN, ...event.ResourceProperties };
  if (!now.AmiId) return place(event, left);
  const [masters, media, given] = SUBNETS.map((parameter) => listOf(now, parameter));

  const before = event.RequestType === 'Update' && { ...PLAIN, ...event.OldResourceProperties };
  const [, partition, , region, account] = process.env.STACK_ID.split(':');
  const prefix = `arn:${partition}:acm:${region}:${account}:`;
  const secrets = `arn:${partition}:secretsmanager:${region}:${account}:secret:`;
  const keys = `arn:${partition}:kms:${region}:${account}:key/`;
  const role = `arn:${partition}:iam::${account}:role/aws-service-role/autoscaling.amazonaws.com/AWSServiceRoleForAutoScaling`;
  // Half of the time, so that the answer can do without a call that hangs.
  const options = { signal: AbortSignal.timeout(left >> 1) };
  // Nothing else that cannot be learnt keeps a good stack from being built.
  const attempt = async (what, call) => {
    try {
      return await call();
    } catch (error) {
      console.log(`${what} not checked:`, error.name, error.message);
    }
  };
  const wanted = matching('instance-type', INSTANCES.map((parameter) => now[parameter]));
  const codes = [...new Set(INSTANCES.map((parameter) => quotaOf(now[parameter])))].filter(Boolean);
  const learning = {
    subnets: describeSubnets([...masters, ...media, ...given]),
    tables: attempt('routes', () => describe('RouteTables', matching('vpc-id', [now.OpenViduVPC]), options)),
    places: attempt('kinds of zones', () => describe('AvailabilityZones', { AllAvailabilityZones: true }, options)),
    image: attempt('AmiId', async () => (await orElse(/^InvalidAMIID/, null,
      describe('Images', { ImageIds: [now.AmiId], IncludeDeprecated: true }, options)))?.[0] || null),
    types: attempt('instance types', () => describe('InstanceTypes', wanted, options)),
    offers: attempt('zones of instance types', () => describe('InstanceTypeOfferings', { LocationType: 'availability-zone', ...wanted }, options)),
    restored: attempt(SNAPSHOTS, () => describeSnapshots(listOf(now, SNAPSHOTS), options)),
    zone: now.HostedZoneId && attempt('HostedZoneId', () => hostedZone(now.HostedZoneId, options)),
    // Of keys elsewhere nothing can be asked.
    key: (!now.KmsKeyArn || now.KmsKeyArn.startsWith(keys)) && attempt('key of the volumes', () => volumeKey(now.KmsKeyArn, role, options)),
    quotas: attempt('vCPU quotas', async () => Object.fromEntries(await Promise.all(
      codes.map(async (code) => [code, await readQuota(code, !before, attempt, options)])))),
    certificates: Promise.all(CERTIFICATES.map(([parameter]) => now[parameter]?.startsWith(prefix)
      && attempt(parameter, () => describeCertificate(now[parameter], options)))),
    buckets: Promise.all(BUCKETS.map((parameter) => now[parameter]
      && attempt(parameter, () => bucketRegion(now[parameter], account, options)))),
  };
  const facts = Object.fromEntries(await Promise.all(Object.entries(learning).map(async ([name, fact]) => [name, await fact])));
  const { subnets, image } = facts;
  const balancers = [given.length ? given : [...masters, ...media], given.length ? given : media].map((ids) => onePerZone(subnets, ids));
  const found = problems(now, before, { region, account, prefix, secrets }, facts, balancers);
  if (found.length && !rollingBack) throw new Error(tell(found));
  return {
    LoadBalancerSubnets: `${balancers[0]}`,
    TurnSubnets: `${balancers[1]}`,
    RootDeviceName: image?.RootDeviceName || '/dev/xvda',
    MasterNodeZones: spread(slots(masters).map((id) => subnets.get(id)?.AvailabilityZone || '?')),
  };
};
