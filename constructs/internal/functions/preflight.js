// Refuses what cannot work before anything costly is built, and looks up what CloudFormation cannot.
const { EC2Client, DescribeImagesCommand, DescribeSubnetsCommand } = require('@aws-sdk/client-ec2');

const ec2 = new EC2Client();

// Fewer than four subnets are cycled over the four slots.
const slots = (subnets) => [0, 1, 2, 3].map((slot) => subnets[slot % subnets.length]);

const zonesOf = async (SubnetIds) => {
  const { Subnets } = await ec2.send(new DescribeSubnetsCommand({ SubnetIds: [...new Set(SubnetIds)] }));
  return new Map(Subnets.map(({ SubnetId, AvailabilityZone }) => [SubnetId, AvailabilityZone]));
};

const rootDevice = async (ImageId) => {
  try {
    const { Images } = await ec2.send(new DescribeImagesCommand({ ImageIds: [ImageId] }));
    return Images[0].RootDeviceName;
  } catch (error) {
    console.log('root device unknown:', error.name);
    return '/dev/xvda';
  }
};

// One subnet a zone, the first of each: a network load balancer takes no two of one zone.
const onePerZone = (zones, subnets) => {
  const firsts = new Map();
  for (const subnet of subnets) if (!firsts.has(zones.get(subnet))) firsts.set(zones.get(subnet), subnet);
  return [...firsts.values()].join(',');
};

const problems = (now, before) => {
  const found = [];
  const { MasterSubnets } = now;
  if (MasterSubnets.length > 4) found.push(`OpenViduMasterNodeSubnets: ${MasterSubnets.length} were given; choose 1 to 4.`);
  if (new Set(MasterSubnets).size < MasterSubnets.length) found.push(`OpenViduMasterNodeSubnets: '${MasterSubnets}' names one twice; name each once.`);
  if (!before) return found;
  const [is, was] = [slots(MasterSubnets), slots(before.MasterSubnets)];
  const moved = [0, 1, 2, 3].filter((slot) => is[slot] !== was[slot]).map((slot) => slot + 1);
  if (moved.length) found.push(`OpenViduMasterNodeSubnets: '${MasterSubnets}' would take Master Nodes ${moved} from their IPs and data; go back to '${before.MasterSubnets}'.`);
  if (now.Vpc !== before.Vpc) found.push(`OpenViduVPC: a cluster cannot move to '${now.Vpc}'; go back to '${before.Vpc}'.`);
  if (+now.DiskSize < +before.DiskSize) found.push(`DiskSize: ${now.DiskSize} is less than the volumes have; give ${before.DiskSize} or more.`);
  if (now.RetainVolumes !== before.RetainVolumes) found.push(`RetainVolumes: '${now.RetainVolumes}' would replace the volumes by blank ones; go back to '${before.RetainVolumes}'.`);
  return found;
};

async function work({ RequestType, StackId, ResourceProperties, OldResourceProperties }) {
  const { MasterSubnets, MediaSubnets, ImageId } = ResourceProperties;
  if (!ImageId) {
    // Custom::OpenViduSlots: a resource of its own, so that no other parameter makes interfaces and volumes look replaceable.
    const zones = await zonesOf(MasterSubnets);
    return Object.fromEntries(slots(MasterSubnets).flatMap((subnet, slot) => [
      [`Subnet${slot + 1}`, subnet], [`Zone${slot + 1}`, zones.get(subnet)]]));
  }
  const found = problems(ResourceProperties, RequestType === 'Update' ? OldResourceProperties : undefined);
  if (found.length && !await rollingBack(StackId)) throw new Error(found.join(' '));
  const zones = await zonesOf([...MasterSubnets, ...MediaSubnets]);
  return {
    LoadBalancerSubnets: onePerZone(zones, [...MasterSubnets, ...MediaSubnets]),
    TurnSubnets: onePerZone(zones, MediaSubnets),
    RootDeviceName: await rootDevice(ImageId),
  };
}
