const assert = require('node:assert/strict');
const { createHash, randomUUID } = require('node:crypto');
const { test } = require('node:test');
const { credentials: REFUSED } = require('./cases.js');
const { MEDIA_SECRET, SECRET, STACK, awsError, start, testFrame } = require('./harness.js');

const FILE = 'credentials.js';
const RESTORED = 'arn:aws:secretsmanager:eu-west-1:111122223333:secret:Restored-Cd34Ef';
const LICENSE = 'the-licence-0123456789';

const GENERATED = ['LIVEKIT_API_KEY', 'LIVEKIT_API_SECRET', 'REDIS_PASSWORD', 'MONGO_ADMIN_PASSWORD', 'MONGO_REPLICA_SET_KEY',
  'MINIO_SECRET_KEY', 'DASHBOARD_ADMIN_PASSWORD', 'GRAFANA_ADMIN_PASSWORD', 'MEET_INITIAL_ADMIN_PASSWORD'];
const USERS = ['MONGO_ADMIN_USERNAME', 'MINIO_ACCESS_KEY', 'DASHBOARD_ADMIN_USERNAME', 'GRAFANA_ADMIN_USERNAME', 'MEET_INITIAL_ADMIN_USER'];

// All else that OpenVidu's scripts and documentation look for, as the properties below make it.
const KNOWN = {
  OPENVIDU_URL: 'https://video.example.com/',
  LIVEKIT_URL: 'wss://video.example.com/',
  DASHBOARD_URL: 'https://video.example.com/dashboard/',
  GRAFANA_URL: 'https://video.example.com/grafana/',
  MINIO_URL: 'https://video.example.com/minio-console/',
  DOMAIN_NAME: 'video.example.com',
  LIVEKIT_TURN_DOMAIN_NAME: '',
  OPENVIDU_PRO_LICENSE: LICENSE,
  OPENVIDU_RTC_ENGINE: 'pion',
  MONGO_ADMIN_USERNAME: 'mongoadmin',
  MINIO_ACCESS_KEY: 'minioadmin',
  DASHBOARD_ADMIN_USERNAME: 'dashboardadmin',
  GRAFANA_ADMIN_USERNAME: 'grafanaadmin',
  MEET_INITIAL_ADMIN_USER: 'admin',
  MEET_INITIAL_API_KEY: '', // nobody asked for one
  ENABLED_MODULES: 'observability,v2compatibility,openviduMeet',
  MASTER_NODE_1_PRIVATE_IP: '10.0.0.11',
  MASTER_NODE_2_PRIVATE_IP: '10.0.1.12',
  MASTER_NODE_3_PRIVATE_IP: '10.0.2.13',
  MASTER_NODE_4_PRIVATE_IP: '10.0.0.14',
  OPENVIDU_VERSION: '3.9.0',
  ALL_SECRETS_GENERATED: 'true',
};

const properties = ({ Settings, ...others } = {}) => ({
  ServiceToken: 'arn:aws:lambda:eu-west-1:111122223333:function:Credentials',
  ServiceTimeout: '900',
  SecretArn: SECRET,
  MediaSecretArn: MEDIA_SECRET,
  MediaKeys: ['REDIS_PASSWORD', 'OPENVIDU_VERSION'],
  VolumesRetained: 'true',
  Version: '3.9.0',
  MasterIps: ['10.0.0.11', '10.0.1.12', '10.0.2.13', '10.0.0.14'],
  ...others,
  Settings: {
    DOMAIN_NAME: 'video.example.com',
    LIVEKIT_TURN_DOMAIN_NAME: '',
    OPENVIDU_PRO_LICENSE: LICENSE,
    OPENVIDU_RTC_ENGINE: 'pion',
    ENABLED_MODULES: 'observability,v2compatibility,openviduMeet',
    ...Settings,
  },
});

const create = (now) => ({
  RequestType: 'Create',
  RequestId: randomUUID(),
  LogicalResourceId: 'Fill',
  ResourceProperties: properties(now),
});

const update = (now, before) => ({ ...create(now), RequestType: 'Update', OldResourceProperties: properties(before) });

// What Secrets Manager does with a secret; without a text it has no value yet. Beside that of the cluster there is that of the Media Nodes.
const vault = (text, arn = SECRET) => {
  const media = arn === SECRET ? vault(undefined, MEDIA_SECRET) : undefined;
  const own = {
    media,
    versions: new Map(), // what they hold and their labels, by id
    deleted: undefined, // what Secrets Manager says of a secret that waits for its deletion
    restored: () => { throw awsError('ResourceNotFoundException', "Secrets Manager can't find the specified secret."); },
    snapshots: { first: { Snapshots: [] } }, // by the token of their page
    writes: 0,
    // Everything that must not be told, as it was at any time.
    confidential: new Set([LICENSE]),
    holder: (label) => [...own.versions].find(([, { labels }]) => labels.has(label))?.[0],
    // A label is at one version; the one that was current before is the previous one.
    label: (label, id) => {
      const before = own.holder(label);
      own.versions.get(before)?.labels.delete(label);
      own.versions.get(id).labels.add(label);
      if (label === 'AWSCURRENT' && before) own.label('AWSPREVIOUS', before);
    },
    get text() { return own.versions.get(own.holder('AWSCURRENT'))?.text; },
    // As the console saves it.
    set text(value) {
      const id = `edit-${randomUUID()}`;
      own.versions.set(id, { text: value, labels: new Set() });
      own.label('AWSCURRENT', id);
      own.watch();
    },
    watch: () => {
      for (const { text: held } of own.versions.values()) {
        let values;
        try { values = JSON.parse(held); } catch { values = {}; }
        for (const key of [...GENERATED, 'OPENVIDU_PRO_LICENSE']) if (values?.[key]) own.confidential.add(String(values[key]));
      }
    },
    values: () => JSON.parse(own.text),
    edit: (values) => { own.text = JSON.stringify({ ...own.values(), ...values }); },
    status: 'UPDATE_IN_PROGRESS',
    calls: {
      GetSecretValue: ({ SecretId, VersionId, ...others }) => {
        assert.deepEqual(others, {});
        if (SecretId === RESTORED) return own.restored(VersionId);
        if (media && SecretId === MEDIA_SECRET) return media.calls.GetSecretValue({ SecretId, VersionId });
        assert.equal(SecretId, arn);
        if (own.deleted) throw awsError('InvalidRequestException', own.deleted);
        const id = VersionId ?? own.holder('AWSCURRENT');
        if (!own.versions.has(id)) throw awsError('ResourceNotFoundException', "Secrets Manager can't find the specified secret value");
        return { SecretString: own.versions.get(id).text, VersionId: id, VersionStages: [...own.versions.get(id).labels] };
      },
      PutSecretValue: ({ SecretId, SecretString, ClientRequestToken: id, VersionStages = ['AWSCURRENT'], ...others }) => {
        if (media && SecretId === MEDIA_SECRET) return media.calls.PutSecretValue({ SecretId, SecretString, ClientRequestToken: id, VersionStages });
        assert.equal(SecretId, arn);
        assert.deepEqual(others, {});
        assert.ok(id.length >= 32 && id.length <= 64, 'Secrets Manager takes no such token');
        if (own.versions.has(id)) {
          if (own.versions.get(id).text === SecretString) return {};
          throw awsError('ResourceExistsException');
        }
        own.versions.set(id, { text: SecretString, labels: new Set() });
        for (const label of VersionStages) own.label(label, id);
        if (own.versions.size === 1 && !VersionStages.includes('AWSCURRENT')) own.label('AWSCURRENT', id);
        own.writes += 1;
        own.watch();
        return {};
      },
      UpdateSecretVersionStage: ({ SecretId, VersionStage, MoveToVersionId, RemoveFromVersionId, ...others }) => {
        if (media && SecretId === MEDIA_SECRET) return media.calls.UpdateSecretVersionStage({ SecretId, VersionStage, MoveToVersionId, RemoveFromVersionId });
        assert.equal(SecretId, arn);
        assert.deepEqual(others, {});
        const holder = own.holder(VersionStage);
        if (holder && holder !== RemoveFromVersionId) {
          throw awsError('InvalidParameterException', `Staging label ${VersionStage} is currently attached to version ${holder}`);
        }
        own.label(VersionStage, MoveToVersionId);
        return {};
      },
      DescribeSnapshots: ({ OwnerIds, Filters, NextToken, ...others }) => {
        assert.deepEqual([OwnerIds, Filters, others], [['self'], [{ Name: 'tag:OpenViduVolumes', Values: [`${STACK}/Volumes`] }], {}]);
        return own.snapshots[NextToken ?? 'first'];
      },
      DeleteSecret: ({ SecretId, ...others }) => {
        assert.equal(SecretId, SECRET);
        assert.deepEqual(others, { RecoveryWindowInDays: 7 });
        own.deleted = "You can't perform this operation on the secret because it was marked for deletion.";
        return { DeletionDate: new Date('2026-01-08') };
      },
      DescribeStacks: ({ StackName }) => {
        assert.equal(StackName, STACK);
        return { Stacks: [{ StackStatus: own.status }] };
      },
    },
  };
  if (text !== undefined) own.text = text;
  return own;
};

// A function on a secret, for the test t.
const on = async (t, secret, calls = {}) => {
  const world = await start(t, FILE, { ...secret.calls, ...calls }, secret.confidential);
  if (secret.restoring) world.env.RESTORED_SECRET_ARN = RESTORED;
  return world;
};

// A cluster that was created, and the Revision that its Create returned.
const created = async (t, now) => {
  const secret = vault();
  const world = await on(t, secret);
  const { Revision } = await world.succeed(create(now));
  world.calls.length = 0;
  secret.writes = 0;
  secret.media.writes = 0;
  return { secret, world, Revision };
};

testFrame(test, FILE, create, () => vault().calls, 'GetSecretValue');

test('Create writes every key of a secret without value, once and in one call', async (t) => {
  const secret = vault();
  const world = await on(t, secret);
  await world.succeed(create());

  assert.equal(secret.writes, 1);
  const values = secret.values();
  assert.deepEqual(Object.keys(values).sort(), [...Object.keys(KNOWN), ...GENERATED].sort());
  for (const key of Object.keys(values)) assert.equal(secret.text.split(`"${key}":`).length, 2, `${key} must stand once`);
  for (const [key, value] of Object.entries(KNOWN)) assert.equal(values[key], value, key);
});

test('generated values have the form that OpenVidu makes and are all different', async (t) => {
  const { secret } = await created(t);
  const { LIVEKIT_API_KEY, ...values } = secret.values();
  assert.match(LIVEKIT_API_KEY, /^API[A-Za-z0-9]{12}$/);
  const others = GENERATED.filter((key) => key !== 'LIVEKIT_API_KEY');
  for (const key of others) assert.match(values[key], /^[A-Za-z0-9]{44}$/, key);
  assert.equal(new Set(others.map((key) => values[key])).size, others.length);
  // 396 random characters of 62: were a class of them left out, this would fail; by chance it fails once in 10^30.
  const all = others.map((key) => values[key]).join('');
  for (const some of [/[A-Z]/, /[a-z]/, /[0-9]/]) assert.match(all, some);
});

test('two clusters have no generated value in common', async (t) => {
  const [one, other] = [await created(t), await created(t)];
  for (const key of GENERATED) assert.notEqual(one.secret.values()[key], other.secret.values()[key], key);
});

test('Create takes over what the secret already has and adds what is missing', async (t) => {
  const mine = { REDIS_PASSWORD: 'my-own-password', DOMAIN_NAME: 'mine.example.com', OPENVIDU_VERSION: '3.8.0', MY_KEY: 'mine' };
  const secret = vault(JSON.stringify(mine));
  const world = await on(t, secret);
  await world.succeed(create());
  const values = secret.values();
  for (const [key, value] of Object.entries(mine)) assert.equal(values[key], value, key);
  assert.deepEqual(Object.keys(values).sort(), [...Object.keys(KNOWN), ...GENERATED, 'MY_KEY'].sort());
});

const INITIAL = { MEET_INITIAL_ADMIN_PASSWORD: 'my-first-password', MEET_INITIAL_API_KEY: 'my-first-key' };

test('Create takes the initial values that are given', async (t) => {
  const { secret, world, Revision } = await created(t, { Initial: INITIAL });
  const values = secret.values();
  for (const [key, value] of Object.entries(INITIAL)) assert.equal(values[key], value, key);
  assert.deepEqual(Object.keys(values).sort(), [...Object.keys(KNOWN), ...GENERATED].sort());
  // The same stack again, or one that no longer tells them: nothing changes.
  for (const Initial of [INITIAL, { MEET_INITIAL_ADMIN_PASSWORD: '', MEET_INITIAL_API_KEY: '' }, undefined]) {
    assert.equal((await world.succeed(update({ Initial }, { Initial: INITIAL }))).Revision, Revision);
  }
  assert.deepEqual(secret.values(), values);
});

test('Create makes a password where none is given, and no API key that nobody asked for', async (t) => {
  for (const Initial of [{ MEET_INITIAL_ADMIN_PASSWORD: '', MEET_INITIAL_API_KEY: '' }, undefined]) {
    const { secret } = await created(t, { Initial });
    assert.match(secret.values().MEET_INITIAL_ADMIN_PASSWORD, /^[A-Za-z0-9]{44}$/);
    assert.equal(secret.values().MEET_INITIAL_API_KEY, '');
  }
});

test('a repeated Create keeps an initial value that was edited', async (t) => {
  const { secret, world } = await created(t, { Initial: INITIAL });
  secret.edit({ MEET_INITIAL_ADMIN_PASSWORD: 'edited-password' });
  await world.succeed(create({ Initial: INITIAL }));
  assert.equal(secret.values().MEET_INITIAL_ADMIN_PASSWORD, 'edited-password');
});

for (const key of Object.keys(INITIAL)) {
  const now = { Initial: { ...INITIAL, [key]: 'another-value' }, Settings: { OPENVIDU_RTC_ENGINE: 'mediasoup' } };

  test(`Update with another ${key} is refused, and told is no value`, async (t) => {
    const { secret, world } = await created(t, { Initial: INITIAL });
    secret.confidential.add('another-value');
    const { text } = secret;
    assert.match(await world.fail(update(now, { Initial: INITIAL })), /^InitialMeet[A-Za-z]+ counts at creation only\. Go back to what it was/);
    // Nor may one be given that was left out before: OpenVidu Meet has the generated one.
    assert.match(await world.fail(update(now, { Initial: { ...INITIAL, [key]: '' } })), /counts at creation only/);
    assert.equal(secret.text, text);
  });

  test(`Update with another ${key} is accepted in a rollback, and writes it not`, async (t) => {
    const { secret, world } = await created(t, { Initial: INITIAL });
    secret.status = 'UPDATE_ROLLBACK_IN_PROGRESS';
    await world.succeed(update(now, { Initial: INITIAL }));
    assert.equal(secret.values()[key], INITIAL[key]);
  });

  test(`Update with the ${key} that the secret has is accepted`, async (t) => {
    const { secret, world } = await created(t, { Initial: INITIAL });
    secret.edit({ [key]: 'another-value' });
    await world.succeed(update(now, { Initial: INITIAL }));
    assert.equal(secret.values()[key], 'another-value');
  });
}

const S3 = {
  EXTERNAL_S3_ENDPOINT: 'https://s3.eu-west-1.amazonaws.com', EXTERNAL_S3_REGION: 'eu-west-1', EXTERNAL_S3_PATH_STYLE_ACCESS: 'false',
  EXTERNAL_S3_BUCKET_APP_DATA: 'app', EXTERNAL_S3_BUCKET_CLUSTER_DATA: 'cluster',
};

test('the secret of a cluster on S3 has its five settings beside the others, of one on volumes none', async (t) => {
  const [one, other] = [await created(t, { Settings: { S3 } }), await created(t)];
  const values = one.secret.values();
  assert.deepEqual(Object.keys(values).sort(), [...Object.keys(KNOWN), ...GENERATED, ...Object.keys(S3)].sort());
  for (const [key, value] of Object.entries(S3)) assert.equal(values[key], value, key);
  assert.doesNotMatch(Object.keys(other.secret.values()).join(), /S3/); // by chance a password has it
});

test('Revision changes with a setting of S3', async (t) => {
  const { world, Revision } = await created(t, { Settings: { S3 } });
  const now = { Settings: { S3: { ...S3, EXTERNAL_S3_BUCKET_APP_DATA: 'another' } } };
  assert.notEqual((await world.succeed(update(now, { Settings: { S3 } }))).Revision, Revision);
});

// A cluster before this one, upgraded since, whose secret somebody copied.
const OLD = Object.fromEntries([...Object.keys(KNOWN), ...GENERATED].map((key) => [key, `old-${key}`]));
Object.assign(OLD, { OPENVIDU_VERSION: '3.9.2', MY_KEY: 'mine', DOMAIN_NAME: KNOWN.DOMAIN_NAME, ALL_SECRETS_GENERATED: 'true' });
// Of these the new stack has its own.
const OWN = ['DOMAIN_NAME', 'LIVEKIT_TURN_DOMAIN_NAME', 'OPENVIDU_PRO_LICENSE', 'OPENVIDU_RTC_ENGINE', 'ENABLED_MODULES',
  ...Object.keys(KNOWN).filter((key) => /_URL$|_PRIVATE_IP$/.test(key))];
const restoring = { RestoredSecretArn: RESTORED };
const restored = (answer) => {
  const secret = vault();
  secret.restoring = true;
  secret.restored = (VersionId) => {
    assert.equal(VersionId, undefined);
    return answer();
  };
  for (const key of GENERATED) secret.confidential.add(OLD[key]);
  return secret;
};

test('Create takes credentials and version of the restored secret, all else of the new stack', async (t) => {
  const secret = restored(() => ({ SecretString: JSON.stringify(OLD) }));
  const world = await on(t, secret);
  await world.succeed(create({ ...restoring, Initial: INITIAL }));
  const values = secret.values();
  assert.deepEqual(Object.keys(values).sort(), [...Object.keys(KNOWN), ...GENERATED].sort());
  for (const [key, value] of Object.entries(values)) assert.equal(value, OWN.includes(key) ? KNOWN[key] : OLD[key], key);
});

test('a repeated Create and a later Update keep what was restored, also when the restored secret is gone', async (t) => {
  const secret = restored(() => ({ SecretString: JSON.stringify(OLD) }));
  const world = await on(t, secret);
  const first = create(restoring);
  const data = await world.succeed(first);
  secret.edit({ GRAFANA_ADMIN_PASSWORD: 'edited-password' });
  const { text } = secret;
  assert.deepEqual(await world.succeed(first), data);
  assert.deepEqual(await world.succeed(create(restoring)), data);
  secret.restored = () => { throw awsError('ResourceNotFoundException'); };
  assert.deepEqual(await world.succeed(update(restoring, restoring)), data);
  assert.equal(secret.text, text);
});

test('Create names what the restored secret lacks, and writes nothing', async (t) => {
  const { MONGO_REPLICA_SET_KEY, OPENVIDU_VERSION, ...some } = OLD;
  const secret = restored(() => ({ SecretString: JSON.stringify({ ...some, REDIS_PASSWORD: '' }) }));
  const world = await on(t, secret);
  assert.equal(await world.fail(create(restoring)), `RestoredSharedInfoArn: the secret ${RESTORED} holds no `
    + "REDIS_PASSWORD,MONGO_REPLICA_SET_KEY,OPENVIDU_VERSION; give it the whole content of the old cluster's secret.");
  assert.equal(secret.text, undefined);
});

const OLD_BUCKETS = { EXTERNAL_S3_BUCKET_APP_DATA: 'old-app', EXTERNAL_S3_BUCKET_CLUSTER_DATA: 'old-cluster' };
for (const [name, before, now, refused] of [
  ['on volumes, as before', {}, {}],
  ['in the same buckets', OLD_BUCKETS, OLD_BUCKETS],
  ['on volumes, but was in S3', OLD_BUCKETS, {}, "S3AppDataBucketName: '' is not where the restored cluster's data is; choose RecordingsStorage S3 and give old-app."],
  ['in new buckets', OLD_BUCKETS, { ...OLD_BUCKETS, EXTERNAL_S3_BUCKET_APP_DATA: 'new' },
    "S3AppDataBucketName: 'new' is not where the restored cluster's data is; choose RecordingsStorage S3 and give old-app."],
  ['in another bucket of cluster data', OLD_BUCKETS, { ...OLD_BUCKETS, EXTERNAL_S3_BUCKET_CLUSTER_DATA: 'new' },
    "S3ClusterDataBucketName: 'new' is not where the restored cluster's data is; choose RecordingsStorage S3 and give old-cluster."],
  ['in S3, but was on volumes', {}, OLD_BUCKETS, "S3AppDataBucketName: 'old-app' is not where the restored cluster's data is; choose RecordingsStorage Volumes."],
]) {
  test(`Create of a restored cluster whose data is ${name}: ${refused ? 'refused' : 'accepted'}`, async (t) => {
    const secret = restored(() => ({ SecretString: JSON.stringify({ ...OLD, ...before }) }));
    const world = await on(t, secret);
    const event = create(restoring);
    event.ResourceProperties.Settings = { ...event.ResourceProperties.Settings, S3: now };
    if (!refused) return world.succeed(event);
    assert.equal(await world.fail(event), refused);
    assert.equal(secret.text, undefined);
  });
}

for (const [version, refused] of [['3.7.9', true], ['2.30.0', true], ['3.8.0', false], ['3.10.1', false], ['10.0.0', false]]) {
  test(`Create ${refused ? 'refuses' : 'takes'} a restored secret of OpenVidu ${version}`, async (t) => {
    const secret = restored(() => ({ SecretString: JSON.stringify({ ...OLD, OPENVIDU_VERSION: version }) }));
    const world = await on(t, secret);
    if (!refused) return world.succeed(create(restoring));
    assert.equal(await world.fail(create(restoring)), `RestoredSharedInfoArn: OPENVIDU_VERSION '${version}' is older than 3.8.0; `
      + 'upgrade the old cluster first, then take snapshots.');
    assert.equal(secret.text, undefined);
  });
}

for (const [name, error] of [['does not exist', 'ResourceNotFoundException'], ['may not be read', 'AccessDeniedException']]) {
  test(`Create refuses a restored secret that ${name}, by its ARN`, async (t) => {
    const secret = restored(() => { throw awsError(error); });
    const world = await on(t, secret);
    world.pause = 0.001;
    assert.equal(await world.fail(create(restoring), 6e6), `The secret ${RESTORED} cannot be read: a message of ${error}`);
    assert.equal(secret.text, undefined);
  });
}

for (const text of ['hunter2-is-my-password', '["hunter2"]', '{"REDIS_PASSWORD":"hunter2"', undefined]) {
  test(`Create refuses a restored secret that is ${text}, and does not tell it`, async (t) => {
    const secret = restored(() => ({ SecretString: text }));
    const world = await on(t, secret);
    const reason = await world.fail(create(restoring));
    assert.ok(reason.startsWith(`The secret ${RESTORED} is not a JSON object`), reason);
    assert.doesNotMatch(reason + world.log, /hunter2|REDIS/);
    assert.equal(secret.text, undefined);
  });
}

for (const [name, without] of Object.entries({
  'was emptied': (values, key) => ({ ...values, [key]: '' }),
  'is null': (values, key) => ({ ...values, [key]: null }),
  'was removed': ({ ...values }, key) => { delete values[key]; return values; },
})) {
  for (const key of [...GENERATED, ...USERS]) {
    test(`Update refuses a secret whose ${key} ${name}, by name and with the way back`, async (t) => {
      const { secret, world } = await created(t);
      secret.text = JSON.stringify(without(secret.values(), key));
      const { text } = secret;
      for (const event of [update(), update({ Settings: { OPENVIDU_RTC_ENGINE: 'mediasoup' } }), create()]) {
        const reason = await world.fail(event);
        assert.ok(reason.startsWith(`The secret ${SECRET} holds no ${key}. No new values are made`), reason);
        assert.match(reason, /previous version \(AWSPREVIOUS\), then repeat the operation\.$/);
      }
      assert.equal(secret.text, text);
      assert.deepEqual(world.called('PutSecretValue'), []);
    });
  }
}

test('Update refuses a secret that lost its value', async (t) => {
  const world = await on(t, vault());
  assert.match(await world.fail(update()), /holds no LIVEKIT_API_KEY, MONGO_ADMIN_USERNAME, .*No new values are made/);
  assert.deepEqual(world.called('PutSecretValue'), []);
});

test('a rollback goes on without a generated value, and makes no new one', async (t) => {
  const { secret, world, Revision } = await created(t);
  secret.status = 'UPDATE_ROLLBACK_IN_PROGRESS';
  secret.edit({ REDIS_PASSWORD: '' });
  assert.equal((await world.succeed(update())).Revision, Revision);
  assert.equal(secret.values().REDIS_PASSWORD, '');
  // Another Revision would replace the Master Nodes.
  secret.edit({ MONGO_REPLICA_SET_KEY: '' });
  assert.match(await world.fail(update()), /holds no REDIS_PASSWORD, MONGO_REPLICA_SET_KEY\./);
});

for (const [name, event] of [['Create', create()], ['Update', update({ Settings: { OPENVIDU_RTC_ENGINE: 'mediasoup' } })]]) {
  test(`a repeated ${name} changes nothing and answers the same`, async (t) => {
    const { secret, world } = await created(t);
    const first = await world.succeed(event);
    const { text, writes } = secret;
    assert.deepEqual(await world.succeed(event), first);
    assert.equal(secret.text, text);
    assert.equal(secret.writes, writes);
  });
}

test('a repeated Update leaves an edit alone that was made in between', async (t) => {
  const { secret, world } = await created(t);
  const event = update({ Settings: { OPENVIDU_RTC_ENGINE: 'mediasoup' } });
  const first = await world.succeed(event);
  secret.edit({ OPENVIDU_RTC_ENGINE: 'edited' });
  const { text } = secret;
  assert.deepEqual(await world.succeed(event), first);
  assert.equal(secret.text, text);
});

const CHANGES = [
  { name: 'TurnDomainName', now: { Settings: { LIVEKIT_TURN_DOMAIN_NAME: 'turn.example.com' } },
    writes: { LIVEKIT_TURN_DOMAIN_NAME: 'turn.example.com' } },
  { name: 'the licence', now: { Settings: { OPENVIDU_PRO_LICENSE: 'another-licence-98765' } },
    writes: { OPENVIDU_PRO_LICENSE: 'another-licence-98765' } },
  { name: 'RtcEngine', now: { Settings: { OPENVIDU_RTC_ENGINE: 'mediasoup' } }, writes: { OPENVIDU_RTC_ENGINE: 'mediasoup' } },
  { name: 'the modules', now: { Settings: { ENABLED_MODULES: 'observability' } }, writes: { ENABLED_MODULES: 'observability' } },
  { name: 'the IP of a Master Node', now: { MasterIps: ['10.0.0.11', '10.0.1.12', '10.0.2.99', '10.0.0.14'] },
    writes: { MASTER_NODE_3_PRIVATE_IP: '10.0.2.99' } },
];

for (const { name, now, writes } of CHANGES) {
  test(`Update that changes ${name} writes that and nothing else`, async (t) => {
    const { secret, world } = await created(t);
    const before = secret.values();
    await world.succeed(update(now));
    assert.deepEqual(secret.values(), { ...before, ...writes });
    assert.equal(secret.writes, 1);
  });

  test(`Update that changes ${name} keeps edits of everything else`, async (t) => {
    const { secret, world } = await created(t);
    const edits = Object.fromEntries([...Object.keys(KNOWN), ...GENERATED].map((key) => [key, `edited-${key}`]));
    secret.edit({ ...edits, MY_KEY: 'mine', MY_NUMBER: 7 });
    const before = secret.values();
    await world.succeed(update(now));
    assert.deepEqual(secret.values(), { ...before, ...writes });
  });

  test(`a rollback of ${name} puts the setting back and keeps edits`, async (t) => {
    const { secret, world, Revision } = await created(t);
    secret.edit({ GRAFANA_ADMIN_PASSWORD: 'edited-password', MY_KEY: 'mine' });
    const before = secret.values();
    await world.succeed(update(now));
    assert.notDeepEqual(secret.values(), before);
    secret.status = 'UPDATE_ROLLBACK_IN_PROGRESS';
    assert.equal((await world.succeed(update({}, now))).Revision, Revision);
    assert.deepEqual(secret.values(), before);
  });

  test(`Revision changes with ${name}`, async (t) => {
    const { world, Revision } = await created(t);
    const changed = (await world.succeed(update(now))).Revision;
    assert.notEqual(changed, Revision);
    assert.equal((await world.succeed(update(now, now))).Revision, changed);
  });
}

test('Update without a change writes nothing and keeps edits of settings', async (t) => {
  const { secret, world, Revision } = await created(t);
  secret.edit({ DOMAIN_NAME: 'edited.example.com', OPENVIDU_URL: 'https://edited.example.com/', ENABLED_MODULES: '' });
  const { text } = secret;
  assert.equal((await world.succeed(update())).Revision, Revision);
  assert.equal(secret.text, text);
  assert.deepEqual(world.called('PutSecretValue'), []);
});

// OpenVidu keeps the domain with its data, and no node starts under another.
test('Update with another DomainName is refused', async (t) => {
  const { secret, world } = await created(t);
  const { text } = secret;
  assert.equal(await world.fail(update({ Settings: { DOMAIN_NAME: 'new.example.com' } })), "DomainName: 'new.example.com' is another domain than "
    + "the cluster's: OpenVidu keeps its domain with its data, and no node would start under another. Go back to video.example.com.");
  assert.equal(secret.text, text);
});

test('Update to the DomainName that the secret has is accepted, and so is a rollback', async (t) => {
  const { secret, world } = await created(t);
  secret.status = 'UPDATE_ROLLBACK_IN_PROGRESS';
  await world.succeed(update({}, { Settings: { DOMAIN_NAME: 'new.example.com' } }));
  secret.status = 'UPDATE_IN_PROGRESS';
  secret.edit({ DOMAIN_NAME: 'new.example.com' });
  await world.succeed(update({ Settings: { DOMAIN_NAME: 'new.example.com' } }));
  assert.equal(secret.values().OPENVIDU_URL, 'https://new.example.com/');
});

test('Create of a restored cluster under another DomainName is refused', async (t) => {
  const secret = restored(() => ({ SecretString: JSON.stringify(OLD) }));
  const world = await on(t, secret);
  assert.equal(await world.fail(create({ Settings: { DOMAIN_NAME: 'new.example.com' } })),
    "DomainName: 'new.example.com' is not the domain of the restored cluster, whose data is bound to it; give video.example.com.");
  assert.equal(secret.text, undefined);
});

for (const when of ['at the write', 'before the new version is current']) {
  test(`an edit between read and write is not lost (${when})`, async (t) => {
    const { secret } = await created(t);
    let edits = 0;
    const meddling = (call) => (input) => {
      if (edits++ < 2) secret.edit({ GRAFANA_ADMIN_PASSWORD: `edited-${edits}`, MY_KEY: 'mine' });
      return secret.calls[call](input);
    };
    const call = when === 'at the write' ? 'PutSecretValue' : 'UpdateSecretVersionStage';
    const world = await on(t, secret, { [call]: meddling(call) });
    world.pause = 0.001;
    await world.succeed(update({ Settings: { OPENVIDU_RTC_ENGINE: 'mediasoup' } }), 6e6);
    const { GRAFANA_ADMIN_PASSWORD, MY_KEY, OPENVIDU_RTC_ENGINE } = secret.values();
    assert.deepEqual([GRAFANA_ADMIN_PASSWORD, MY_KEY, OPENVIDU_RTC_ENGINE], ['edited-2', 'mine', 'mediasoup']);
  });
}

test('a value that somebody gives an empty secret meanwhile is not lost', async (t) => {
  const secret = vault();
  const world = await on(t, secret, { PutSecretValue: (input) => {
    if (!secret.text) secret.text = JSON.stringify({ REDIS_PASSWORD: 'my-own-password' });
    return secret.calls.PutSecretValue(input);
  } });
  world.pause = 0.001;
  await world.succeed(create(), 6e6);
  assert.equal(secret.values().REDIS_PASSWORD, 'my-own-password');
  assert.match(secret.values().MONGO_ADMIN_PASSWORD, /^[A-Za-z0-9]{44}$/);
});

test('a secret that something keeps changing is given up, and nothing of that is lost', async (t) => {
  const { secret } = await created(t);
  let edits = 0;
  const world = await on(t, secret, { UpdateSecretVersionStage: (input) => {
    secret.edit({ MY_KEY: `${++edits}` });
    return secret.calls.UpdateSecretVersionStage(input);
  } });
  world.pause = 0.001;
  assert.match(await world.fail(update({ Settings: { OPENVIDU_RTC_ENGINE: 'mediasoup' } }), 6e6), /something else keeps changing it\. Repeat the operation\.$/);
  assert.deepEqual([secret.values().MY_KEY, secret.values().OPENVIDU_RTC_ENGINE], [`${edits}`, 'pion']);
});

test('what was current before a write is the previous version', async (t) => {
  const { secret, world } = await created(t);
  const { text } = secret;
  await world.succeed(update({ Settings: { OPENVIDU_RTC_ENGINE: 'mediasoup' } }));
  assert.equal(secret.versions.get(secret.holder('AWSPREVIOUS')).text, text);
});

// Who may invoke the function may write its event.
test('the secret is the one of the environment, whatever the event says', async (t) => {
  const secret = vault();
  const world = await on(t, secret);
  await world.succeed(create({ SecretArn: 'arn:another', RestoredSecretArn: RESTORED }));
  for (const { input } of world.calls) if (input.SecretId) assert.ok([SECRET, MEDIA_SECRET].includes(input.SecretId));
});

for (const [name, settings] of Object.entries({
  'a password': { REDIS_PASSWORD: 'known-to-me' }, 'a URL': { OPENVIDU_URL: 'https://attacker.example.com/' }, 'the version': { OPENVIDU_VERSION: '3.8.0' },
  'the marker': { ALL_SECRETS_GENERATED: '' }, 'an address': { MASTER_NODE_1_PRIVATE_IP: '203.0.113.7' }, 'a new key': { NEW_SETTING: 'new' },
  'a password, hidden': { S3: { REDIS_PASSWORD: 'known-to-me' } } })) {
  test(`an event that sets ${name} is refused, and writes nothing`, async (t) => {
    const { secret, world } = await created(t);
    const { text } = secret;
    for (const event of [create({ Settings: settings }), update({ Settings: settings })]) {
      assert.match(await world.fail(event), /^Settings: [A-Z_0-9]+ is none of the keys that parameters set\.$/);
    }
    assert.equal(secret.text, text);
    // Of an older template, such a key is nothing.
    await world.succeed(update({}, { Settings: settings }));
    assert.equal(secret.text, text);
  });
}

test('Update gives an old secret a setting that a new template brings', async (t) => {
  const { secret, world } = await created(t);
  const before = secret.values();
  await world.succeed(update({ Settings: { S3 } }));
  assert.deepEqual(secret.values(), { ...before, ...S3 });
});

test('a new setting does not overwrite what stands in the secret already', async (t) => {
  const { secret, world } = await created(t);
  secret.edit({ EXTERNAL_S3_REGION: 'edited' });
  await world.succeed(update({ Settings: { S3: { EXTERNAL_S3_REGION: 'new' } } }));
  assert.equal(secret.values().EXTERNAL_S3_REGION, 'edited');
});

const TEXTS = {
  'plain text': 'hunter2-is-my-password',
  'JSON that is cut off': '{"REDIS_PASSWORD":"hunter2"',
  'a JSON string': '"hunter2"',
  'a JSON array': '["hunter2"]',
  'a JSON number': '471147114711471147',
  'JSON null': 'null',
  'an empty text': '',
};

for (const [name, text] of Object.entries(TEXTS)) {
  for (const event of [create(), update({ Settings: { OPENVIDU_RTC_ENGINE: 'mediasoup' } })]) {
    test(`${event.RequestType} refuses a secret that is ${name}, and neither writes nor tells it`, async (t) => {
      const secret = vault(text);
      const world = await on(t, secret);
      const reason = await world.fail(event);
      assert.match(reason, /not a JSON object and was left as it is/);
      assert.ok(reason.includes(SECRET));
      assert.doesNotMatch(reason + world.log, /hunter2|47114711|REDIS/);
      assert.deepEqual(world.called('PutSecretValue'), []);
    });
  }
}

test('a binary secret is refused and not written', async (t) => {
  const world = await on(t, vault(), { GetSecretValue: () => ({ SecretBinary: Buffer.from('{}'), VersionId: 'v' }) });
  assert.match(await world.fail(create()), /not a JSON object/);
  assert.deepEqual(world.called('PutSecretValue'), []);
});

for (const name of ['AccessDeniedException', 'DecryptionFailure', 'InternalServiceError', 'InvalidRequestException']) {
  test(`${name} at reading fails with its message and writes nothing`, async (t) => {
    const world = await on(t, vault(), { GetSecretValue: () => { throw awsError(name); } });
    world.pause = 0.001;
    assert.match(await world.fail(create(), 6e6), new RegExp(`^The secret ${SECRET} cannot be (read|written): a message of ${name}$`));
    assert.deepEqual(world.called('PutSecretValue'), []);
  });
}

for (const name of ['AccessDeniedException', 'ResourceNotFoundException']) {
  test(`${name} at writing fails with its message`, async (t) => {
    const world = await on(t, vault(), { PutSecretValue: () => { throw awsError(name); } });
    world.pause = 0.001;
    assert.match(await world.fail(create(), 6e6), new RegExp(`^The secret ${SECRET} cannot be (read|written): a message of ${name}$`));
  });
}

test('a value that is no text neither fails nor is told', async (t) => {
  const { secret, world } = await created(t);
  secret.edit(Object.fromEntries(GENERATED.map((key, i) => [key, 471100 + i])));
  const before = secret.values();
  await world.succeed(update());
  assert.deepEqual(secret.values(), before);
});

const SAME = '3.9.0';
const NEWER = '3.10.0';
const NEWEST = '3.11.0';
const VERSIONS = [
  { name: 'an unchanged version is accepted', before: SAME, now: SAME, running: SAME },
  { name: 'an unchanged version is accepted after an upgrade', before: SAME, now: SAME, running: NEWER },
  { name: 'a changed version is refused', before: SAME, now: NEWER, running: SAME, refused: true },
  { name: 'an older version is refused', before: NEWER, now: SAME, running: NEWER, refused: true },
  { name: 'a changed version is accepted when the secret says that the cluster runs it', before: SAME, now: NEWER, running: NEWER },
  { name: 'a changed version is refused when the secret says another', before: SAME, now: NEWEST, running: NEWER, refused: true },
  { name: 'no version is refused in a rollback', before: NEWER, now: SAME, running: NEWER, status: 'UPDATE_ROLLBACK_IN_PROGRESS' },
  { name: 'the rollback of a refused version is accepted', before: NEWER, now: SAME, running: SAME },
];

for (const { name, before, now, running, status, refused } of VERSIONS) {
  test(name, async (t) => {
    const { secret } = await created(t);
    secret.edit({ OPENVIDU_VERSION: running });
    const world = await on(t, secret);
    if (status) secret.status = status;
    const values = secret.values();
    const event = update({ Version: now, Settings: { OPENVIDU_RTC_ENGINE: 'mediasoup' } }, { Version: before });
    if (refused) {
      const reason = await world.fail(event);
      for (const part of ['OpenViduVersion', `'${now}'`, `runs ${running}`, `Keep ${before}`,
        `set OPENVIDU_VERSION in the secret ${SECRET} to ${now} and repeat this update`]) assert.ok(reason.includes(part), reason);
      assert.deepEqual(secret.values(), values);
      assert.deepEqual(world.called('PutSecretValue'), []);
    } else {
      await world.succeed(event);
      assert.deepEqual(secret.values(), { ...values, OPENVIDU_RTC_ENGINE: 'mediasoup' });
    }
  });
}

// The first two reads wait for each other, so that both see the secret as it was before either write.
const meeting = ({ GetSecretValue }) => {
  let meet;
  const met = new Promise((resolve) => { meet = resolve; });
  let reads = 0;
  return {
    GetSecretValue: async (input) => {
      reads += 1;
      if (reads === 2) meet();
      await met;
      return GetSecretValue(input);
    },
  };
};

test('of two invocations at once for one request one writes, and both answer for what it wrote', async (t) => {
  const secret = vault();
  const both = meeting(secret.calls);
  const [one, other] = [await on(t, secret, both), await on(t, secret, both)];
  const event = create();
  const [first, second] = await Promise.all([one.succeed(event), other.succeed(event)]);
  assert.equal(secret.writes, 1);
  assert.deepEqual(first, second);
  assert.deepEqual(await one.succeed(update()), first);
});

for (const [name, text] of Object.entries(TEXTS)) {
  test(`what another invocation wrote is not told when it is ${name}`, async (t) => {
    const secret = vault();
    const world = await on(t, secret, {
      PutSecretValue: ({ ClientRequestToken: token }) => {
        secret.versions.set(token, { text, labels: new Set(['AWSCURRENT']) });
        throw awsError('ResourceExistsException');
      },
    });
    assert.match(await world.fail(create()), /not a JSON object/);
    assert.doesNotMatch(world.puts[0].body + world.log, /hunter2|47114711/);
  });
}

test('the token of a write is the one of the request', async (t) => {
  const secret = vault();
  const world = await on(t, secret);
  const event = create();
  await world.succeed(event);
  assert.equal(world.called('PutSecretValue')[0].ClientRequestToken, event.RequestId);
});

test('Revision does not depend on the order of the properties', async (t) => {
  const { world, Revision } = await created(t);
  const reversed = ({ Settings, ...others }) => Object.fromEntries(Object.entries(
    { ...others, Settings: Object.fromEntries(Object.entries(Settings).reverse()) }).reverse());
  const event = update();
  event.ResourceProperties = reversed(event.ResourceProperties);
  assert.equal((await world.succeed(event)).Revision, Revision);
  assert.deepEqual(world.called('PutSecretValue'), []);
});

test('Revision does not change with the version, which masters do not apply', async (t) => {
  const { secret, world, Revision } = await created(t);
  secret.edit({ OPENVIDU_VERSION: NEWER });
  assert.equal((await world.succeed(update({ Version: NEWER }))).Revision, Revision);
});

test('Revision cannot be computed from the settings', async (t) => {
  const [one, other] = [await created(t), await created(t)];
  assert.match(one.Revision, /^[0-9a-f]{16}$/);
  // Equal settings, yet another Revision: it takes something that only the secret knows.
  assert.notEqual(one.Revision, other.Revision);
  const settings = Object.entries(one.secret.values()).filter(([key]) => !GENERATED.includes(key));
  for (const form of [settings, settings.sort(), Object.fromEntries(settings), properties(), properties().Settings]) {
    for (const algorithm of ['md5', 'sha1', 'sha256', 'sha512']) {
      const hash = createHash(algorithm).update(JSON.stringify(form)).digest('hex');
      assert.ok(!hash.includes(one.Revision));
    }
  }
});

test('Revision is all that is answered', async (t) => {
  const world = await on(t, vault());
  assert.deepEqual(Object.keys(await world.succeed(create())), ['Revision']);
});

for (const { name, before, now, initial, secret: given, deleted, refused } of REFUSED) {
  test(`${name}: refused, and nothing is written`, async (t) => {
    const { secret } = await created(t);
    if (typeof given === 'string') secret.text = given;
    else if (given) secret.edit(given);
    if (deleted) secret.deleted = "You can't perform this operation on the secret because it was marked for deletion.";
    const { text } = secret;
    const world = await on(t, secret);
    for (const value of Object.values(initial ?? {})) secret.confidential.add(value);
    assert.equal(await world.fail(update({ Version: now, Initial: initial }, { Version: before })), refused.replaceAll('SECRET ', `${SECRET} `));
    assert.equal(secret.text, text);
    assert.deepEqual(world.called('PutSecretValue'), []);
  });
}

test('the second of two invocations at once answers for what the first wrote, though the secret still reads as empty', async (t) => {
  const secret = vault();
  const event = create();
  const first = await (await on(t, secret)).succeed(event);
  const world = await on(t, secret, {
    GetSecretValue: (input) => {
      if (input.SecretId === SECRET && !input.VersionId) throw awsError('ResourceNotFoundException');
      return secret.calls.GetSecretValue(input);
    },
  });
  assert.deepEqual(await world.succeed(event), first);
  assert.equal(secret.writes, 1);
});

test('an invocation whose write is known, but not to be read, fails and invents nothing', async (t) => {
  const secret = vault();
  const event = create();
  await (await on(t, secret)).succeed(event);
  const world = await on(t, secret, { GetSecretValue: () => { throw awsError('ResourceNotFoundException'); } });
  world.pause = 0.001;
  const { text } = secret;
  assert.match(await world.fail(event, 6e6), /cannot be written/);
  assert.equal(secret.text, text);
});

test('Create for another request keeps what a Create wrote, and answers the same Revision', async (t) => {
  const { secret, world, Revision } = await created(t);
  const { text } = secret;
  assert.equal((await world.succeed(create())).Revision, Revision);
  assert.equal(secret.text, text);
});

test('two requests at once leave one whole set of values, and all later answers agree', async (t) => {
  const secret = vault();
  const both = meeting(secret.calls);
  const written = [];
  const calls = {
    ...both,
    PutSecretValue: (input) => {
      if (input.SecretId === SECRET) written.push(input.SecretString);
      return secret.calls.PutSecretValue(input);
    },
  };
  const [one, other] = [await on(t, secret, calls), await on(t, secret, calls)];
  await Promise.all([one.succeed(create()), other.succeed(create())]);
  assert.equal(written.length, 2);
  assert.ok(written.includes(secret.text), 'no mixture of two sets');
  const { text } = secret;
  assert.deepEqual(await one.succeed(create()), await other.succeed(update()));
  assert.equal(secret.text, text);
});

test('an Update that is repeated after its rollback changes nothing', async (t) => {
  const { secret, world } = await created(t);
  const late = update({ Settings: { OPENVIDU_RTC_ENGINE: 'mediasoup' } });
  await world.succeed(late);
  secret.status = 'UPDATE_ROLLBACK_IN_PROGRESS';
  await world.succeed(update({}, { Settings: { OPENVIDU_RTC_ENGINE: 'mediasoup' } }));
  const { text } = secret;
  secret.status = 'UPDATE_IN_PROGRESS';
  await world.succeed(late);
  assert.equal(secret.text, text);
});

test('a Create that is repeated after an Update changes nothing', async (t) => {
  const secret = vault();
  const world = await on(t, secret);
  const first = create();
  const { Revision } = await world.succeed(first);
  await world.succeed(update({ Settings: { OPENVIDU_RTC_ENGINE: 'mediasoup' } }));
  const { text } = secret;
  assert.equal((await world.succeed(first)).Revision, Revision);
  assert.equal(secret.text, text);
});

test('a Delete before, between and after touches nothing', async (t) => {
  const secret = vault();
  const world = await on(t, secret);
  const gone = { ...create(), RequestType: 'Delete' };
  await world.invoke(gone);
  const { Revision } = await world.succeed(create());
  const { text } = secret;
  await world.invoke(gone);
  assert.equal((await world.succeed(update())).Revision, Revision);
  assert.equal(secret.text, text);
});

test('an error at writing that quotes a value is told by its name only', async (t) => {
  for (const key of ['REDIS_PASSWORD', 'OPENVIDU_PRO_LICENSE']) {
    const secret = vault();
    const world = await on(t, secret, {
      PutSecretValue: ({ SecretString }) => {
        secret.confidential.add(JSON.parse(SecretString)[key]);
        throw awsError('ValidationException', `Value '${SecretString}' at 'secretString' failed to satisfy constraint`);
      },
    });
    assert.equal(await world.fail(create()), `The secret ${SECRET} cannot be written: ValidationException`);
  }
});

// What Media Nodes use, in a secret of their own.
const shared = (secret) => {
  const { REDIS_PASSWORD, OPENVIDU_VERSION } = secret.values();
  return { REDIS_PASSWORD, OPENVIDU_VERSION };
};

test('Create gives Media Nodes the keys that they use, and no other', async (t) => {
  const secret = vault();
  const world = await on(t, secret);
  await world.succeed(create());
  assert.deepEqual(secret.media.values(), shared(secret));
  assert.equal(secret.media.writes, 1);
});

test('Create gives Media Nodes what was restored', async (t) => {
  const secret = restored(() => ({ SecretString: JSON.stringify(OLD) }));
  const world = await on(t, secret);
  await world.succeed(create(restoring));
  assert.deepEqual(secret.media.values(), { REDIS_PASSWORD: OLD.REDIS_PASSWORD, OPENVIDU_VERSION: OLD.OPENVIDU_VERSION });
});

test('Update gives Media Nodes what was edited, and what a template before this one did not give them', async (t) => {
  const { secret, world } = await created(t);
  secret.edit({ REDIS_PASSWORD: 'edited-password', OPENVIDU_VERSION: '3.9.1' });
  await world.succeed(update());
  assert.deepEqual(secret.media.values(), { REDIS_PASSWORD: 'edited-password', OPENVIDU_VERSION: '3.9.1' });
  secret.media = undefined;
  const fresh = vault(secret.text);
  await (await on(t, fresh)).succeed(update());
  assert.deepEqual(fresh.media.values(), shared(fresh));
  assert.equal(fresh.writes, 0);
});

test('what nodes note in both secrets survives: Update, its rollback, a repeated Create', async (t) => {
  const { secret, world } = await created(t);
  const noted = { 'INSTALLER_MASTER_3.9.0': 'a'.repeat(64), 'INSTALLER_MEDIA_3.9.0': 'b'.repeat(64) };
  const now = { Settings: { OPENVIDU_RTC_ENGINE: 'mediasoup' } };
  secret.edit(noted);
  secret.media.edit({ 'INSTALLER_MEDIA_3.9.0': 'b'.repeat(64), REDIS_PASSWORD: 'outdated' });
  await world.succeed(update(now));
  secret.status = 'UPDATE_ROLLBACK_IN_PROGRESS';
  await world.succeed(update({}, now));
  await world.succeed(create());
  for (const [key, value] of Object.entries(noted)) assert.equal(secret.values()[key], value);
  assert.deepEqual(secret.media.values(), { 'INSTALLER_MEDIA_3.9.0': 'b'.repeat(64), ...shared(secret) });
});

test('nothing is written where Media Nodes have what they use, also when the event is repeated', async (t) => {
  const { secret, world } = await created(t);
  const event = update({ Settings: { OPENVIDU_RTC_ENGINE: 'mediasoup' } });
  for (let i = 0; i < 2; i++) await world.succeed(event);
  assert.equal(secret.media.writes, 0);
});

test('a rollback does not take from Media Nodes what was lost', async (t) => {
  const { secret, world } = await created(t);
  const { REDIS_PASSWORD } = secret.values();
  secret.edit({ REDIS_PASSWORD: '' });
  secret.status = 'UPDATE_ROLLBACK_IN_PROGRESS';
  await world.succeed(update());
  assert.equal(secret.media.values().REDIS_PASSWORD, REDIS_PASSWORD);
});

for (const call of ['PutSecretValue', 'UpdateSecretVersionStage']) {
  test(`what a Master Node writes for Media Nodes meanwhile is not lost (${call})`, async (t) => {
    const { secret } = await created(t);
    secret.edit({ OPENVIDU_VERSION: '3.9.1' });
    let edits = 0;
    const world = await on(t, secret, { [call]: (input) => {
      if (input.SecretId === MEDIA_SECRET && !edits++) {
        secret.edit({ OPENVIDU_VERSION: '3.9.2' });
        secret.media.edit({ OPENVIDU_VERSION: '3.9.2', 'INSTALLER_MEDIA_3.9.2': 'c' });
      }
      return secret.calls[call](input);
    } });
    world.pause = 0.001;
    await world.succeed(update(), 6e6);
    assert.equal(edits, 3, 'written in vain, then what was known, then what is newer');
    assert.deepEqual(secret.media.values(), { ...shared(secret), OPENVIDU_VERSION: '3.9.2', 'INSTALLER_MEDIA_3.9.2': 'c' });
  });
}

for (const [name, text] of Object.entries(TEXTS)) {
  test(`a secret of the Media Nodes that is ${name} is left as it is`, async (t) => {
    const { secret, world } = await created(t);
    secret.media.text = text;
    const reason = await world.fail(update());
    assert.ok(reason.startsWith(`The secret ${MEDIA_SECRET} is not a JSON object and was left as it is`), reason);
    assert.equal(secret.media.text, text);
  });
}

test('an error at writing for Media Nodes that quotes a value is told by its name only', async (t) => {
  const secret = vault();
  const world = await on(t, secret, { PutSecretValue: (input) => {
    if (input.SecretId === SECRET) return secret.calls.PutSecretValue(input);
    secret.confidential.add(JSON.parse(input.SecretString).REDIS_PASSWORD);
    throw awsError('ValidationException', `Value '${input.SecretString}' at 'secretString' failed to satisfy constraint`);
  } });
  assert.equal(await world.fail(create()), `The secret ${MEDIA_SECRET} cannot be written: ValidationException`);
});

// Credentials go when the data went, and never before.
const gone = (VolumesRetained) => ({ ...create({ VolumesRetained }), RequestType: 'Delete' });
const deleting = async (t, changes = {}, calls = {}) => {
  const { secret } = await created(t);
  Object.assign(secret, { status: 'DELETE_IN_PROGRESS', ...changes });
  const world = await on(t, secret, calls);
  world.pause = 0.001;
  return { secret, world };
};

test('Delete of a stack without volumes and snapshots deletes the secret, in a week', async (t) => {
  const { secret, world } = await deleting(t, { snapshots: { first: { Snapshots: [], NextToken: 'second' }, second: { Snapshots: [] } } });
  assert.equal((await world.invoke(gone('false'))).Status, 'SUCCESS');
  assert.ok(secret.deleted);
  assert.deepEqual(world.called('DeleteSecret'), [{ SecretId: SECRET, RecoveryWindowInDays: 7 }]);
  // Lambda repeats it.
  assert.equal((await world.invoke(gone('false'))).Status, 'SUCCESS');
});

for (const [name, VolumesRetained, changes, calls] of [
  ['while the volumes stay', 'true'],
  ['of a template that did not tell what becomes of the volumes', undefined],
  ['while snapshots exist', 'false', { snapshots: { first: { Snapshots: [{ SnapshotId: 'snap-1' }] } } }],
  ['while snapshots exist, on a later page', 'false', { snapshots: { first: { Snapshots: [], NextToken: 'second' }, second: { Snapshots: [{ SnapshotId: 'snap-1' }] } } }],
  ['while the stack is updated', 'false', { status: 'UPDATE_IN_PROGRESS' }],
  ['while old resources of an update are taken away', 'false', { status: 'UPDATE_COMPLETE_CLEANUP_IN_PROGRESS' }],
  ['while a creation is rolled back', 'false', { status: 'ROLLBACK_IN_PROGRESS' }],
  ['when snapshots cannot be listed', 'false', {}, { DescribeSnapshots: () => { throw awsError('UnauthorizedOperation'); } }],
  ['when the stack cannot be asked for', 'false', {}, { DescribeStacks: () => { throw awsError('AccessDenied'); } }],
  ['when there is no such stack', 'false', {}, { DescribeStacks: () => ({ Stacks: [] }) }],
]) {
  test(`Delete keeps the secret ${name}`, async (t) => {
    const { secret, world } = await deleting(t, changes, calls);
    assert.equal((await world.invoke(gone(VolumesRetained), 6e6)).Status, 'SUCCESS');
    assert.equal(secret.deleted, undefined);
    assert.deepEqual(world.called('DeleteSecret'), []);
  });
}

test('Delete succeeds where the secret may not be deleted, and the log tells it', async (t) => {
  const { world } = await deleting(t, {}, { DeleteSecret: () => { throw awsError('AccessDeniedException', 'not authorized'); } });
  assert.equal((await world.invoke(gone('false'), 6e6)).Status, 'SUCCESS');
  assert.match(world.log, /left behind: not authorized/);
});

test('Delete succeeds when AWS does not answer', { timeout: 5000 }, async (t) => {
  const { secret, world } = await deleting(t, {}, { DescribeSnapshots: () => new Promise(() => {}) });
  assert.equal((await world.invoke(gone('false'), 10301)).Status, 'SUCCESS');
  assert.equal(secret.deleted, undefined);
});

test('generated values come from a cryptographic source', async (t) => {
  const { random } = Math;
  t.after(() => { Math.random = random; });
  Math.random = () => { throw new Error('a source that can be guessed'); };
  await created(t);
});
