// Fills the secret: settings come from the parameters, generated values appear once and stay, hand edits stay.
const { createHmac, randomInt } = require('crypto');

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
    'MEET_INITIAL_API_KEY'].map((key) => [key, random(44)])),
  ALL_SECRETS_GENERATED: 'true',
});

// Keys whose first value a parameter may give.
const INITIAL = [['MEET_INITIAL_ADMIN_PASSWORD', 'InitialMeetAdminPassword'], ['MEET_INITIAL_API_KEY', 'InitialMeetApiKey']];

// What the parameters say; the URLs follow from the domain.
const settings = ({ Settings: { S3, ...given }, MasterIps }) => {
  const domain = given.DOMAIN_NAME;
  return {
    ...given,
    ...S3,
    OPENVIDU_URL: `https://${domain}/`,
    LIVEKIT_URL: `wss://${domain}/`,
    DASHBOARD_URL: `https://${domain}/dashboard/`,
    GRAFANA_URL: `https://${domain}/grafana/`,
    MINIO_URL: `https://${domain}/minio-console/`,
    ...Object.fromEntries(MasterIps.map((ip, i) => [`MASTER_NODE_${i + 1}_PRIVATE_IP`, ip])),
  };
};

exports.work = async ({ RequestType, RequestId, StackId, ResourceProperties, OldResourceProperties }) => {
  const { SecretsManagerClient, GetSecretValueCommand, PutSecretValueCommand } = require('@aws-sdk/client-secrets-manager');
  const client = new SecretsManagerClient();
  const { SecretArn, Version, Initial = {}, RestoredSecretArn } = ResourceProperties;
  const read = async (VersionId, SecretId = SecretArn) => {
    let secret = {};
    try {
      secret = JSON.parse((await client.send(new GetSecretValueCommand({ SecretId, VersionId }))).SecretString);
    } catch (error) {
      // A secret without any value is what the stack creates; all else that cannot be read is left as it is.
      if (error instanceof SyntaxError) secret = null;
      else if (VersionId || SecretId !== SecretArn || error.name !== 'ResourceNotFoundException') {
        throw new Error(`The secret ${SecretId} cannot be read: ${error.message || error.name}`);
      }
    }
    if (secret === null || typeof secret !== 'object' || Array.isArray(secret)) {
      throw new Error(`The secret ${SecretId} is not a JSON object and was left as it is. Mend it, then repeat the operation.`);
    }
    return secret;
  };
  let secret = await read();
  const now = settings(ResourceProperties);
  const before = RequestType === 'Update' ? settings(OldResourceProperties) : {};
  const was = JSON.stringify(secret);

  const made = generated();
  if (RequestType === 'Create' && RestoredSecretArn) {
    // Restored data opens to the credentials, and to the version, that it was written with.
    const restored = await read(undefined, RestoredSecretArn);
    const keys = [...Object.keys(made), 'OPENVIDU_VERSION'];
    const missing = keys.filter((key) => !restored[key]);
    if (/^([012]|3\.[0-7])\./.test(restored.OPENVIDU_VERSION)) throw new Error(`RestoredSharedInfoArn: OPENVIDU_VERSION '${restored.OPENVIDU_VERSION}' is older than 3.8.0; upgrade the old cluster first, then take snapshots.`);
    if (missing.length) throw new Error(`RestoredSharedInfoArn: the secret ${RestoredSecretArn} holds no ${missing}; give it the whole content of the old cluster's secret.`);
    // Its databases tell of recordings where they were. A bucket of this stack's own would be an empty one.
    for (const name of ['App', 'Cluster']) {
      const [there, here] = [restored, now].map((one) => one[`EXTERNAL_S3_BUCKET_${name.toUpperCase()}_DATA`] || '');
      if (there !== here) throw new Error(`S3${name}DataBucketName: '${here}' is not where the restored cluster's data is; choose RecordingsStorage ${there ? `S3 and give ${there}` : 'Volumes'}.`);
    }
    for (const key of keys) secret[key] ||= restored[key];
  }
  const running = secret.OPENVIDU_VERSION || Version;
  if (RequestType === 'Update' && Version !== OldResourceProperties.Version && Version !== running
      && !await rollingBack(StackId)) {
    throw new Error(`OpenViduVersion: '${Version}' was given, but this cluster runs ${running} and the parameter upgrades nothing. Keep ${OldResourceProperties.Version}; or upgrade as OpenVidu documents, set OPENVIDU_VERSION in the secret ${SecretArn} to ${Version} and repeat this update.`);
  }
  secret.OPENVIDU_VERSION = running;

  for (const [key, value] of Object.entries(now)) {
    if (!(key in secret) || (key in before && before[key] !== value)) secret[key] = value;
  }
  for (const [key, parameter] of INITIAL) {
    const value = Initial[key];
    // What OpenVidu Meet took at its first start, it keeps: a later value here would only make the secret wrong.
    if (RequestType === 'Update' && value && value !== OldResourceProperties.Initial?.[key] && value !== secret[key]
        && !await rollingBack(StackId)) {
      throw new Error(`${parameter} counts at creation only. Go back to what it was, and change it in OpenVidu Meet.`);
    }
    if (RequestType === 'Create' && value) secret[key] ||= value;
  }
  for (const [key, value] of Object.entries(made)) secret[key] ||= value;

  const SecretString = JSON.stringify(secret);
  if (SecretString !== was) {
    try {
      // The token is the new version's id: so a repeated or concurrent invocation for the same request writes once. For others
      // there is no lock: CloudFormation sends one request at a time, and none reaches this function after it gave up.
      await client.send(new PutSecretValueCommand({ SecretId: SecretArn, SecretString, ClientRequestToken: RequestId }));
    } catch (error) {
      if (error.name !== 'ResourceExistsException') {
        // A message that quotes a value is not for logs and events.
        const { name, message } = error;
        const told = Object.values(secret).some((value) => value && message.includes(value)) ? name : message || name;
        throw new Error(`The secret ${SecretArn} cannot be written: ${told}`);
      }
      // That version, not the current one: reads of what is current may lag behind.
      secret = await read(RequestId);
    }
  }
  // Keyed, so that nobody who reads the user data can try out settings against it.
  const hash = createHmac('sha256', `${secret.MONGO_REPLICA_SET_KEY}`).update(JSON.stringify(Object.entries(now).sort()));
  return { Revision: hash.digest('hex').slice(0, 16) };
};
