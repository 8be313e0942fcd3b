// Fills the secret: settings come from the parameters, generated values appear once and stay, hand edits stay. What Media Nodes use
// of it is copied into a secret of their own. Which secrets, the environment tells; which keys, it and the lists below. The event
// chooses neither.
const { createHmac, randomInt, randomUUID } = require('crypto');

const letters = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789';
const random = (length) => Array.from({ length }, () => letters[randomInt(letters.length)]).join('');

// Keys that are made once, and the names of the users that belong to them.
const generated = () => ({
  LIVEKIT_API_KEY: 'API' + random(12),
  MONGO_ADMIN_USERNAME: 'mongoadmin',
  MINIO_ACCESS_KEY: 'minioadmin',
  DASHBOARD_ADMIN_USERNAME: 'dashboardadmin',
  GRAFANA_ADMIN_USERNAME: 'grafanaadmin',
  MEET_INITIAL_ADMIN_USER: 'admin',
  ...Object.fromEntries(['LIVEKIT_API_SECRET', 'REDIS_PASSWORD', 'MONGO_ADMIN_PASSWORD', 'MONGO_REPLICA_SET_KEY',
    'MINIO_SECRET_KEY', 'DASHBOARD_ADMIN_PASSWORD', 'GRAFANA_ADMIN_PASSWORD', 'MEET_INITIAL_ADMIN_PASSWORD',
  ].map((key) => [key, random(44)])),
});
const GENERATED = Object.keys(generated());

// Keys whose first value a parameter may give. Without one, OpenVidu Meet has no API key until its administrator makes one.
const INITIAL = [['MEET_INITIAL_ADMIN_PASSWORD', 'InitialMeetAdminPassword'], ['MEET_INITIAL_API_KEY', 'InitialMeetApiKey']];

// Keys whose value follows the parameters.
const SETTINGS = ['DOMAIN_NAME', 'LIVEKIT_TURN_DOMAIN_NAME', 'OPENVIDU_PRO_LICENSE', 'OPENVIDU_RTC_ENGINE', 'ENABLED_MODULES',
  'EXTERNAL_S3_ENDPOINT', 'EXTERNAL_S3_REGION', 'EXTERNAL_S3_PATH_STYLE_ACCESS', 'EXTERNAL_S3_BUCKET_APP_DATA',
  'EXTERNAL_S3_BUCKET_CLUSTER_DATA'];

const blank = (value) => value === undefined || value === null || value === '';

// What the parameters say; the URLs follow from the domain.
const settings = ({ Settings: { S3, ...given }, MasterIps }) => {
  const all = { ...given, ...S3 };
  const foreign = Object.keys(all).filter((key) => !SETTINGS.includes(key));
  if (foreign.length) throw new Error(`Settings: ${foreign} is none of the keys that parameters set.`);
  const domain = all.DOMAIN_NAME;
  return {
    ...all,
    OPENVIDU_URL: `https://${domain}/`,
    LIVEKIT_URL: `wss://${domain}/`,
    DASHBOARD_URL: `https://${domain}/dashboard/`,
    GRAFANA_URL: `https://${domain}/grafana/`,
    MINIO_URL: `https://${domain}/minio-console/`,
    ...Object.fromEntries(MasterIps.slice(0, 4).map((ip, i) => [`MASTER_NODE_${i + 1}_PRIVATE_IP`, ip])),
  };
};
// A template from before or after this one may have had other keys.
const known = ({ Settings: { S3, ...given }, ...others }) => settings({
  ...others, Settings: Object.fromEntries(Object.entries({ ...given, ...S3 }).filter(([key]) => SETTINGS.includes(key))) });

// read gives the values of a version of a secret (the current one where none is named), its id and its labels.
const read = async (SecretId, VersionId) => {
  let [values, found] = [{}, {}];
  try {
    found = await aws('SecretsManager', 'GetSecretValue', { SecretId, VersionId });
    values = JSON.parse(found.SecretString);
  } catch (error) {
    // A secret without any value is what the stack creates; all else that cannot be read is left as it is.
    const ours = [process.env.SECRET_ARN, process.env.MEDIA_SECRET_ARN].includes(SecretId);
    if (error instanceof SyntaxError) values = null;
    else if (VersionId || !ours || error.name !== 'ResourceNotFoundException') {
      throw new Error(`The secret ${SecretId} cannot be read: ${error.message || error.name}`);
    }
  }
  if (values === null || typeof values !== 'object' || Array.isArray(values)) {
    throw new Error(`The secret ${SecretId} is not a JSON object and was left as it is. Fix it, then repeat the operation.`);
  }
  return { values, version: found.VersionId, stages: found.VersionStages || [] };
};

// write makes the values current if base still is: what somebody else wrote meanwhile is never lost. Secrets Manager moves a
// label only from the version that is named, so the new version gets a label of its own first and becomes current then. It
// gives the values that the request made current; undefined when somebody else was faster.
const write = async (SecretId, values, base, version) => {
  const attempt = async (operation, input, tolerated) => {
    try {
      return await aws('SecretsManager', operation, { SecretId, ...input });
    } catch (error) {
      const { name, message } = error;
      if (tolerated.test(name)) return false;
      // A message that quotes a value is not for logs and events.
      const told = Object.values(values).some((value) => value && message.includes(value)) ? name : message || name;
      throw new Error(`The secret ${SecretId} cannot be written: ${told}`);
    }
  };
  // Another invocation with this id may have written already. Reads of one version do not lag behind.
  const written = async () => {
    const found = await attempt('GetSecretValue', { VersionId: version }, /^ResourceNotFound/) && await read(SecretId, version);
    return found && { ...found, took: found.stages.some((label) => /^AWS(CURRENT|PREVIOUS)$/.test(label)) };
  };
  const before = await written();
  if (before) return before.took ? before.values : undefined;
  const put = await attempt('PutSecretValue',
    { SecretString: JSON.stringify(values), ClientRequestToken: version, VersionStages: ['OPENVIDU'] }, /^ResourceExists/);
  const moved = put && await attempt('UpdateSecretVersionStage',
    { VersionStage: 'AWSCURRENT', MoveToVersionId: version, RemoveFromVersionId: base }, /^Invalid(Parameter|Request)/);
  if (moved) return values;
  // The first version of a secret is current from the beginning.
  const after = await written();
  return after?.took ? after.values : undefined;
};

// edit changes the values of a secret, again when somebody else wrote meanwhile; id gives each attempt the id of its version. It gives
// the values that are current then, and whether they are new.
const edit = async (SecretId, id, change) => {
  for (let attempt = 1; ; attempt++) {
    const { values, version } = await read(SecretId);
    const was = JSON.stringify(values);
    await change(values);
    if (JSON.stringify(values) === was) return { values, wrote: false };
    const written = await write(SecretId, values, version, id(attempt));
    if (written) return { values: written, wrote: true };
    if (attempt === 5) throw new Error(`The secret ${SecretId} cannot be written: something else keeps changing it. Repeat the operation.`);
    await pause(1000);
  }
};

// share copies what Media Nodes use. Master Nodes do so too, when they change it: whoever wrote looks again whether the values are
// still the newest. Other keys of that secret are theirs.
const share = async (values) => {
  const keys = process.env.MEDIA_KEYS.split(',');
  for (let newest = values; ;) {
    const { wrote } = await edit(process.env.MEDIA_SECRET_ARN, () => randomUUID(), (media) => {
      for (const key of keys) if (!blank(newest[key])) media[key] = newest[key];
    });
    if (!wrote) return;
    newest = (await read(process.env.SECRET_ARN)).values;
  }
};

// restore takes what the data in restored volumes was written with: the credentials, the version, the domain.
const restore = async (secret, now) => {
  const arn = process.env.RESTORED_SECRET_ARN;
  const { values } = await read(arn);
  const refuse = (text) => { throw new Error(text); };
  const keys = [...GENERATED, 'OPENVIDU_VERSION', 'DOMAIN_NAME'];
  const missing = keys.filter((key) => blank(values[key]));
  if (/^([012]|3\.[0-7])\./.test(values.OPENVIDU_VERSION)) refuse(`RestoredSharedInfoArn: OPENVIDU_VERSION '${values.OPENVIDU_VERSION}' is older than 3.8.0; upgrade the old cluster first, then take snapshots.`);
  if (missing.length) refuse(`RestoredSharedInfoArn: the secret ${arn} holds no ${missing}; give it the whole content of the old cluster's secret.`);
  if (values.DOMAIN_NAME !== now.DOMAIN_NAME) refuse(`DomainName: '${now.DOMAIN_NAME}' is not the domain of the restored cluster, whose data is bound to it; give ${values.DOMAIN_NAME}.`);
  // Its databases tell of recordings where they were. A bucket of this stack's own would be an empty one.
  for (const name of ['App', 'Cluster']) {
    const [there, here] = [values, now].map((one) => one[`EXTERNAL_S3_BUCKET_${name.toUpperCase()}_DATA`] || '');
    if (there !== here) refuse(`S3${name}DataBucketName: '${here}' is not where the restored cluster's data is; choose RecordingsStorage ${there ? `S3 and give ${there}` : 'Volumes'}.`);
  }
  for (const key of [...keys, 'MEET_INITIAL_API_KEY']) if (blank(secret[key]) && !blank(values[key])) secret[key] = values[key];
};

// merge puts into the secret what the request asks for, or refuses it.
const merge = async (secret, now, { RequestType, ResourceProperties, OldResourceProperties }, rollingBack) => {
  const SecretId = process.env.SECRET_ARN;
  const { Version, Initial = {} } = ResourceProperties;
  const update = RequestType === 'Update';
  const before = update ? known(OldResourceProperties) : {};

  // Databases keep the passwords that they were made with. A new one in the place of one that was lost would lock the cluster out.
  const filled = update || !blank(secret.ALL_SECRETS_GENERATED);
  const lost = filled ? GENERATED.filter((key) => blank(secret[key])) : [];
  // Revision needs that key: another Revision would replace the Master Nodes, in the middle of a rollback.
  if (lost.length && !(rollingBack && !lost.includes('MONGO_REPLICA_SET_KEY'))) {
    throw new Error(`The secret ${SecretId} holds no ${lost.join(', ')}. No new values are made, since the databases keep the old ones: put them back from the secret's previous version (AWSPREVIOUS), then repeat the operation.`);
  }
  if (RequestType === 'Create' && process.env.RESTORED_SECRET_ARN) await restore(secret, now);

  const running = secret.OPENVIDU_VERSION || Version;
  if (update && !rollingBack) {
    if (Version !== OldResourceProperties.Version && Version !== running) {
      throw new Error(`OpenViduVersion: '${Version}' was given, but this cluster runs ${running} and the parameter upgrades nothing. Keep ${OldResourceProperties.Version}; or upgrade as OpenVidu documents, set OPENVIDU_VERSION in the secret ${SecretId} to ${Version} and repeat this update.`);
    }
    if (now.DOMAIN_NAME !== before.DOMAIN_NAME && now.DOMAIN_NAME !== secret.DOMAIN_NAME) {
      throw new Error(`DomainName: '${now.DOMAIN_NAME}' is another domain than the cluster's: OpenVidu keeps its domain with its data, and no node would start under another. Go back to ${before.DOMAIN_NAME}.`);
    }
  }
  secret.OPENVIDU_VERSION = running;

  for (const [key, value] of Object.entries(now)) {
    if (!(key in secret) || (key in before && before[key] !== value)) secret[key] = value;
  }
  for (const [key, parameter] of INITIAL) {
    const value = Initial[key];
    // What OpenVidu Meet took at its first start, it keeps: a later value here would only make the secret wrong.
    if (update && value && value !== OldResourceProperties.Initial?.[key] && value !== secret[key] && !rollingBack) {
      throw new Error(`${parameter} counts at creation only. Go back to what it was, and change it in OpenVidu Meet.`);
    }
    if (RequestType === 'Create' && value) secret[key] ||= value;
  }
  secret.MEET_INITIAL_API_KEY ??= '';
  if (!filled) for (const [key, value] of Object.entries(generated())) if (blank(secret[key])) secret[key] = value;
  if (blank(secret.ALL_SECRETS_GENERATED)) secret.ALL_SECRETS_GENERATED = 'true';
};

exports.work = async (event, { rollingBack }) => {
  const now = settings(event.ResourceProperties);
  // The id of a new version is that of the request, so that invocations that are repeated, or run at once, write once.
  const id = (attempt) => (attempt === 1 ? event.RequestId : `${event.RequestId}-${attempt}`);
  const { values } = await edit(process.env.SECRET_ARN, id, (secret) => merge(secret, now, event, rollingBack));
  await share(values);
  // Keyed, so that nobody who reads the user data can try out settings against it.
  const hash = createHmac('sha256', `${values.MONGO_REPLICA_SET_KEY}`).update(JSON.stringify(Object.entries(now).sort()));
  return { Revision: hash.digest('hex').slice(0, 16) };
};

// Data without its credentials is lost: as long as something of it may be left, CloudFormation leaves the secret behind, and so does
// this.
exports.remove = async ({ ResourceProperties }) => {
  if (ResourceProperties?.VolumesRetained !== 'false') return;
  const { StackStatus } = await ownStack();
  if (StackStatus !== 'DELETE_IN_PROGRESS') throw new Error(`The stack is ${StackStatus}.`);
  let NextToken;
  do {
    const page = await aws('EC2', 'DescribeSnapshots', { OwnerIds: ['self'],
      Filters: [{ Name: 'tag:OpenViduVolumes', Values: [process.env.VOLUMES_TAG] }], NextToken });
    if (page.Snapshots.length) throw new Error(`The snapshot ${page.Snapshots[0].SnapshotId} needs it.`);
    NextToken = page.NextToken;
  } while (NextToken);
  const { DeletionDate } = await aws('SecretsManager', 'DeleteSecret', { SecretId: process.env.SECRET_ARN, RecoveryWindowInDays: 7 });
  console.log('the secret is deleted on', DeletionDate);
};
