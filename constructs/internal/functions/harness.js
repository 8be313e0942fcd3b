// Runs a function as Lambda would: its text as a CommonJS module, fake clients of the AWS SDK, and in place of S3, where
// CloudFormation takes answers, a web server on loopback. The code knows nothing of that: its fetch is one that connects
// the names of S3 there, as a resolver of names would. FUNCTIONS_CODE is the folder of the text: go test sets it.
const assert = require('node:assert/strict');
const { readFileSync } = require('node:fs');
const { createServer } = require('node:http');
const { once } = require('node:events');
const { join } = require('node:path');
const { inspect } = require('node:util');
const { compileFunction } = require('node:vm');

const SECRET = 'arn:aws:secretsmanager:eu-west-1:111122223333:secret:Secret-Ab12Cd';
const MEDIA_SECRET = 'arn:aws:secretsmanager:eu-west-1:111122223333:secret:Media-Ef56Gh';
const RESPONSE_URL = 'https://cloudformation-custom-resource-response-euwest1.s3-eu-west-1.amazonaws.com/answer?signature=a%2Fb';
const STACK = 'arn:aws:cloudformation:eu-west-1:111122223333:stack/OpenViduHA/5e1f0a70-0000-11ef-9262-0a0a0a0a0a0a';

// What the clients throw: callers tell errors apart by their name.
const awsError = (name, message) => Object.assign(new Error(message ?? `a message of ${name}`), { name });

// The modules that the runtime brings along, of which only these commands are expected.
const sdk = {
  '@aws-sdk/client-acm': ['ACMClient', 'DescribeCertificateCommand'],
  '@aws-sdk/client-auto-scaling': ['AutoScalingClient', 'DescribeAutoScalingGroupsCommand', 'DescribeScalingActivitiesCommand'],
  '@aws-sdk/client-cloudformation': ['CloudFormationClient', 'DescribeStacksCommand', 'SignalResourceCommand'],
  '@aws-sdk/client-cloudwatch': ['CloudWatchClient', 'GetMetricStatisticsCommand'],
  '@aws-sdk/client-ec2': ['EC2Client', 'DescribeAvailabilityZonesCommand', 'DescribeImagesCommand', 'DescribeInstanceTypeOfferingsCommand',
    'DescribeInstanceTypesCommand', 'DescribeNetworkInterfacesCommand', 'DescribeRouteTablesCommand', 'DescribeSnapshotsCommand',
    'DescribeSubnetsCommand', 'GetEbsDefaultKmsKeyIdCommand'],
  '@aws-sdk/client-kms': ['KMSClient', 'DescribeKeyCommand', 'GetKeyPolicyCommand', 'ListGrantsCommand'],
  '@aws-sdk/client-route-53': ['Route53Client', 'GetHostedZoneCommand'],
  '@aws-sdk/client-s3': ['S3Client', 'GetBucketLocationCommand'],
  '@aws-sdk/client-secrets-manager': ['SecretsManagerClient', 'DeleteSecretCommand', 'GetSecretValueCommand', 'PutSecretValueCommand',
    'UpdateSecretVersionStageCommand'],
  '@aws-sdk/client-service-quotas': ['ServiceQuotasClient', 'GetServiceQuotaCommand'],
};

// A call is over when its signal says so, whatever AWS does.
const abortable = (call, signal) => {
  if (!signal) return call;
  let stop;
  const aborted = new Promise((_, reject) => { stop = () => reject(awsError('AbortError', 'Request aborted')); });
  signal.addEventListener('abort', stop);
  return Promise.race([call, aborted]).finally(() => signal.removeEventListener('abort', stop));
};

const fakeRequire = (send, missing) => (name) => {
  if (missing === name) throw new Error(`Cannot find module '${name}'`);
  if (name === 'crypto') return require('node:crypto');
  assert.ok(name in sdk, `the code requires '${name}', which these tests do not provide`);
  const [client, ...commands] = sdk[name];
  return {
    [client]: class {
      send(command, { abortSignal } = {}) {
        assert.ok(commands.includes(command.name), `${client} was sent ${command.name}`);
        return abortable(send(command.name.replace(/Command$/, ''), command.input), abortSignal);
      }
    },
    ...Object.fromEntries(commands.map((command) => [command, class {
      constructor(input) { Object.assign(this, { name: command, input }); }
    }])),
  };
};

// A function of its own for the test t. aws has a method for each call that may be made, by the name of the call; nothing of
// what is confidential may be logged or answered.
const start = async (t, file, aws, confidential = new Set(), missing = undefined) => {
  const world = { calls: [], log: '', puts: [], refuse: [], pause: 1, patience: 1, answering: 1, waits: [], fetched: [], skipped: 0,
    env: { STACK_ID: STACK, URL_SUFFIX: 'amazonaws.com', SECRET_ARN: SECRET, MEDIA_SECRET_ARN: MEDIA_SECRET,
      MEDIA_KEYS: 'REDIS_PASSWORD,OPENVIDU_VERSION', VOLUMES_TAG: `${STACK}/Volumes` } };
  // refuse holds how CloudFormation receives the next answers (0: not at all). Pauses of the function, its patience with AWS and with
  // CloudFormation are cut to these parts; waits are the milliseconds that it asked for.
  const send = async (call, input) => {
    world.calls.push({ call, input });
    if (!aws[call] && call === 'DescribeStacks') return { Stacks: [{ StackStatus: world.status ?? 'CREATE_IN_PROGRESS' }] };
    if (!aws[call]) throw new Error(`${call} was not expected`);
    return aws[call](input);
  };
  const console = new Proxy({}, {
    get: () => (...words) => {
      world.log += words.map((word) => (typeof word === 'string' ? word : inspect(word))).join(' ') + '\n';
    },
  });
  const path = join(process.env.FUNCTIONS_CODE, file);
  const exports = {};
  const module = { exports };
  const timers = new Set();
  const scope = {
    exports,
    module,
    require: fakeRequire(send, missing),
    console,
    process: { env: world.env },
    Date: class extends Date { static now() { return super.now() + world.skipped; } },
    fetch: (address, options) => {
      world.fetched.push(address);
      const { protocol, host, pathname, search } = new URL(address);
      assert.equal(protocol, 'https:');
      assert.match(host, /^(cloudformation-(custom-resource-response|waitcondition)-[a-z0-9-]+)\.s3[a-z0-9.-]*\.amazonaws\.com(\.cn)?$/,
        'nothing may leave for an address that is not of CloudFormation');
      return fetch(`http://127.0.0.1:${world.port ?? server.address().port}${pathname}${search}`, options);
    },
    AbortSignal: {
      any: (signals) => AbortSignal.any(signals),
      timeout: (ms) => {
        world.waits.push(ms);
        // An answer has its own time, 2.5 s: a busy machine needs it.
        return AbortSignal.timeout(Math.ceil(ms * (ms === 2500 ? world.answering : world.patience)));
      },
    },
    setTimeout: (callback, ms) => {
      world.waits.push(ms);
      if (ms < 60000) world.skipped += ms * (1 - world.pause); // the function's clock goes on as if it had waited
      const timer = setTimeout(() => {
        timers.delete(timer);
        callback();
      }, ms * (ms < 60000 ? world.pause : world.late ?? world.pause));
      timers.add(timer);
      return timer;
    },
    clearTimeout: (timer) => {
      timers.delete(timer);
      clearTimeout(timer);
    },
  };
  compileFunction(readFileSync(path, 'utf8'), Object.keys(scope), { filename: path })(...Object.values(scope));

  const server = createServer(async (request, response) => {
    let body = '';
    for await (const part of request.setEncoding('utf8')) body += part;
    world.puts.push({ method: request.method, url: request.url, headers: request.headers, body });
    const status = world.refuse.shift() ?? 200;
    if (status) response.writeHead(status).end();
    else response.destroy();
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  server.unref(); // a test that fails must not keep the process waiting
  t.after(() => {
    server.close();
    server.closeAllConnections();
  });

  world.called = (call) => world.calls.filter((one) => one.call === call).map(({ input }) => input);

  // hear invokes a function that answers nobody.
  world.hear = async (event) => {
    await module.exports.handler(event, { getRemainingTimeInMillis: () => 60000 });
    assert.equal(timers.size, 0, 'a timer that is left would go off in a later invocation');
  };

  // invoke gives CloudFormation's view of one invocation: one answer that it accepts, whatever happened.
  world.invoke = async (given, remaining = 60000) => {
    const event = {
      StackId: STACK,
      ResponseURL: RESPONSE_URL,
      ...(given.RequestType === 'Create' ? {} : { PhysicalResourceId: 'made-at-creation' }),
      ...given,
    };
    const refusals = world.refuse.length;
    const puts = world.puts.length;
    const logged = world.log.length;
    try {
      await module.exports.handler(event, { getRemainingTimeInMillis: () => remaining });
    } finally {
      const said = world.log + world.puts.map(({ body }) => body).join('\n');
      for (const value of confidential) assert.ok(!said.includes(value), `'${value}' was logged or answered`);
    }
    assert.equal(timers.size, 0, 'a timer that is left would go off in a later invocation');
    assert.equal(world.puts.length, puts + refusals + 1, 'there must be one answer that CloudFormation took');
    assert.equal(new Set(world.puts.slice(puts).map(({ body }) => body)).size, 1, 'a repeated answer must be the same');
    const { method, url, headers, body } = world.puts.at(-1);
    assert.equal(method, 'PUT');
    assert.equal(url, '/answer?signature=a%2Fb');
    // The signature of the real address covers an empty content type, and S3 takes no chunks without a length.
    assert.equal(headers['content-type'], '');
    assert.equal(headers['content-length'], String(Buffer.byteLength(body)));
    assert.ok(Buffer.byteLength(body) <= 4096, 'CloudFormation takes 4096 bytes');
    const answer = JSON.parse(body);
    for (const key of ['StackId', 'RequestId', 'LogicalResourceId']) assert.equal(answer[key], event[key]);
    if (event.PhysicalResourceId) assert.equal(answer.PhysicalResourceId, event.PhysicalResourceId);
    assert.ok(answer.PhysicalResourceId, 'there must be a PhysicalResourceId');
    if (answer.Status === 'FAILED') {
      assert.ok(answer.Reason.length >= 1 && answer.Reason.length <= 1000, 'Reason must have 1 to 1000 characters');
    } else {
      assert.equal(answer.Status, 'SUCCESS');
      assert.equal(answer.Reason, undefined);
    }
    assert.ok(world.log.slice(logged).includes(`${event.RequestType} ${event.LogicalResourceId} ${answer.Status}`),
      'the log must tell the outcome');
    return answer;
  };

  world.succeed = async (event, ...rest) => {
    const answer = await world.invoke(event, ...rest);
    assert.equal(answer.Status, 'SUCCESS', answer.Reason);
    return answer.Data;
  };

  world.fail = async (event, ...rest) => {
    const answer = await world.invoke(event, ...rest);
    assert.equal(answer.Status, 'FAILED');
    assert.equal(answer.Data, undefined);
    return answer.Reason;
  };
  return world;
};

// The promises of the frame that the functions of custom resources share: create makes a Create event, aws the calls that it takes, and slow
// names one of these.
const testFrame = (test, file, create, aws, slow) => {
  const hang = () => new Promise(() => {});

  test('Delete answers SUCCESS without calling AWS', async (t) => {
    const world = await start(t, file, {});
    const answer = await world.invoke({ ...create(), RequestType: 'Delete' });
    assert.equal(answer.Status, 'SUCCESS');
    assert.deepEqual(world.calls, []);
  });

  test('PhysicalResourceId is made at Create and stays', async (t) => {
    const world = await start(t, file, aws());
    const event = create();
    const { PhysicalResourceId } = await world.invoke(event);
    assert.equal(PhysicalResourceId, `${event.LogicalResourceId}-${STACK.split('/').at(-1)}`);
    assert.equal((await world.invoke(event)).PhysicalResourceId, PhysicalResourceId);
    const update = { ...event, RequestType: 'Update', OldResourceProperties: event.ResourceProperties, PhysicalResourceId };
    assert.equal((await world.invoke(update)).PhysicalResourceId, PhysicalResourceId);
  });

  test('PhysicalResourceId of a Create that failed is the one of a Create that succeeds', async (t) => {
    const [good, bad] = [await start(t, file, aws()), await start(t, file, {})];
    assert.equal((await bad.invoke(create())).PhysicalResourceId, (await good.invoke(create())).PhysicalResourceId);
  });

  test('a call that never returns is answered FAILED 10 s before the time is up', { timeout: 5000 }, async (t) => {
    const world = await start(t, file, { ...aws(), [slow]: hang });
    const begin = Date.now();
    assert.match(await world.fail(create(), 10301), /did not answer in time/);
    const took = Date.now() - begin;
    assert.ok(took >= 250 && took < 3000, `answered after ${took} ms`);
  });

  test('a call that never returns is answered at once when the time is nearly up', { timeout: 5000 }, async (t) => {
    const world = await start(t, file, { ...aws(), [slow]: hang });
    await world.fail(create(), 3000);
  });

  test('a slow call succeeds while there is time', async (t) => {
    const calls = aws();
    const world = await start(t, file, {
      ...calls,
      [slow]: (input) => new Promise((resolve) => { setTimeout(resolve, 300); }).then(() => calls[slow](input)),
    });
    await world.succeed(create());
  });

  test('a Reason is cut to 1000 characters', async (t) => {
    const world = await start(t, file, { ...aws(), [slow]: () => { throw awsError('Long', `begin ${'x'.repeat(5000)}`); } });
    const reason = await world.fail(create());
    assert.equal(reason.length, 1000);
    assert.match(reason, /begin x+$/);
  });

  test('a Reason of other than ASCII characters stays below 4096 bytes', async (t) => {
    const world = await start(t, file, { ...aws(), [slow]: () => { throw awsError('Long', `begin ${'\u{1f4a5}\n\u0001é'.repeat(1000)}`); } });
    assert.match(await world.fail(create()), /begin \?+$/);
  });

  for (const thrown of [awsError('ThrottlingException', ''), 'ThrottlingException']) {
    test(`an error without a message is named (${typeof thrown})`, async (t) => {
      const world = await start(t, file, { ...aws(), [slow]: () => { throw thrown; } });
      assert.match(await world.fail(create()), typeof thrown === 'object' ? /ThrottlingException$/ : /./);
    });
  }

  for (const thrown of [undefined, null]) {
    test(`a throw of ${thrown} is answered`, async (t) => {
      const world = await start(t, file, { ...aws(), [slow]: () => { throw thrown; } });
      await world.fail(create());
    });
  }

  test('a module that the runtime does not have is answered, and Delete needs none', async (t) => {
    const world = await start(t, file, aws(), undefined, slow === 'DescribeSubnets' ? '@aws-sdk/client-ec2' : '@aws-sdk/client-secrets-manager');
    assert.match(await world.fail(create()), /Cannot find module/);
    assert.equal((await world.invoke({ ...create(), RequestType: 'Delete' })).Status, 'SUCCESS');
  });

  // Who may invoke the function may write the event.
  for (const [what, forged] of Object.entries({
    'another stack': { StackId: STACK.replace('OpenViduHA', 'Another') },
    'no stack': { StackId: undefined },
    'plain HTTP': { ResponseURL: RESPONSE_URL.replace('https', 'http') },
    'a server of anybody': { ResponseURL: 'https://attacker.example.com/answer' },
    'a bucket of anybody': { ResponseURL: RESPONSE_URL.replace('response-euwest1', 'response-evil') },
    'the bucket of another region': { ResponseURL: RESPONSE_URL.replaceAll('euwest1', 'useast1').replace('eu-west-1', 'us-east-1') },
    'a bucket whose name begins alike': { ResponseURL: RESPONSE_URL.replace('euwest1.', 'euwest1.evil.') },
    'a domain that ends alike': { ResponseURL: RESPONSE_URL.replace('amazonaws.com', 'evilamazonaws.com') },
    'a domain that begins alike': { ResponseURL: RESPONSE_URL.replace('amazonaws.com', 'amazonaws.com.example.com') },
    'a domain in which a dot is a letter': { ResponseURL: RESPONSE_URL.replace('amazonaws.com', 'amazonawsxcom') },
    'another port': { ResponseURL: RESPONSE_URL.replace('.com/', '.com:8443/') },
    'a user name': { ResponseURL: RESPONSE_URL.replace('https://', 'https://user@') },
    'a name behind a user name': { ResponseURL: RESPONSE_URL.replace('.com/', '.com@attacker.example.com/') },
    'no address': { ResponseURL: undefined },
    'a list for an address': { ResponseURL: [RESPONSE_URL] },
  })) {
    for (const RequestType of ['Create', 'Delete']) {
      test(`${RequestType} with ${what} does nothing and answers nobody`, async (t) => {
        const world = await start(t, file, aws());
        await world.hear({ ...create(), StackId: STACK, ResponseURL: RESPONSE_URL, ...forged, RequestType });
        assert.deepEqual([world.calls, world.fetched], [[], []]);
        assert.match(world.log, /refused: the event is not one that CloudFormation sends/);
      });
    }
  }

  for (const [region, suffix, host] of [
    ['us-east-1', 'amazonaws.com', 'useast1.s3.amazonaws.com'], ['us-east-1', 'amazonaws.com', 'useast1.s3.us-east-1.amazonaws.com'],
    ['eu-west-1', 'amazonaws.com', 'euwest1.s3-eu-west-1.amazonaws.com'], ['eu-west-1', 'amazonaws.com', 'euwest1.s3.dualstack.eu-west-1.amazonaws.com'],
    ['us-gov-west-1', 'amazonaws.com', 'usgovwest1.s3-fips.us-gov-west-1.amazonaws.com'], ['cn-north-1', 'amazonaws.com.cn', 'cnnorth1.s3.cn-north-1.amazonaws.com.cn'],
  ]) {
    test(`an answer goes to ${host}`, async (t) => {
      const world = await start(t, file, aws());
      Object.assign(world.env, { STACK_ID: STACK.replace('eu-west-1', region), URL_SUFFIX: suffix });
      const ResponseURL = `https://cloudformation-custom-resource-response-${host}/answer?signature=a%2Fb`;
      await world.invoke({ ...create(), RequestType: 'Delete', StackId: world.env.STACK_ID, ResponseURL });
      assert.deepEqual(world.fetched, [ResponseURL]);
    });
  }

  for (const status of ['CREATE_COMPLETE', 'UPDATE_COMPLETE', 'UPDATE_ROLLBACK_COMPLETE', 'ROLLBACK_COMPLETE', 'UPDATE_COMPLETE_CLEANUP_IN_PROGRESS',
    'UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS', 'DELETE_IN_PROGRESS', 'DELETE_COMPLETE', 'REVIEW_IN_PROGRESS', 'CREATE_FAILED', 'UPDATE_ROLLBACK_FAILED']) {
    test(`Create is refused while the stack is ${status}, and nothing else is asked`, async (t) => {
      const world = await start(t, file, { ...aws(), DescribeStacks: () => ({ Stacks: [{ StackStatus: status }] }) });
      assert.equal(await world.fail(create()), `The stack is ${status}: only its creation or update may do this.`);
      assert.deepEqual(world.calls.map(({ call, input }) => [call, input]), [['DescribeStacks', { StackName: STACK }]]);
    });
  }

  for (const [how, DescribeStacks] of Object.entries({
    'may not be asked for': () => { throw awsError('AccessDenied'); }, 'is not found': () => ({ Stacks: [] }), 'is not told': () => ({ Stacks: [{}] }) })) {
    test(`nothing is done when the state of the stack ${how}`, async (t) => {
      const world = await start(t, file, { ...aws(), DescribeStacks });
      await world.fail(create(), 10300);
      assert.deepEqual([...new Set(world.calls.map(({ call }) => call))], ['DescribeStacks']);
    });
  }

  // IAM takes a moment until a new policy holds.
  for (const name of ['UnauthorizedOperation', 'AccessDenied', 'AccessDeniedException']) {
    for (const call of ['DescribeStacks', slow]) {
      test(`Create goes on when ${call} was denied four times by ${name}, as of a policy that is new`, async (t) => {
        const calls = { DescribeStacks: () => ({ Stacks: [{ StackStatus: 'CREATE_IN_PROGRESS' }] }), ...aws() };
        let denied = 0;
        const world = await start(t, file, { ...calls, [call]: (input) => {
          if (denied++ < 4) throw awsError(name);
          return calls[call](input);
        } });
        world.pause = 0.001;
        await world.succeed(create(), 6e6);
        const waited = world.waits.filter((ms) => ms >= 1000 && ms <= 10000 && ms !== 2500).reduce((sum, ms) => sum + ms, 0);
        assert.ok(waited >= 10000, `it was asked again within ${waited} ms`);
      });
    }

    test(`${name} that lasts is told after about a minute`, async (t) => {
      const world = await start(t, file, { ...aws(), [slow]: () => { throw awsError(name, 'You are not authorized'); } });
      world.pause = 0.001;
      assert.match(await world.fail(create(), 6e6), /You are not authorized$/);
      const waited = world.waits.filter((ms) => ms < 60000 && ms !== 2500).reduce((sum, ms) => sum + ms, 0);
      assert.ok(waited >= 55000 && waited <= 70000, `waited ${waited} ms`);
    });
  }

  test('a call that hangs is aborted when the answer is given', async (t) => {
    const world = await start(t, file, { ...aws(), [slow]: hang });
    await world.fail(create(), 10301);
    const { length } = world.calls;
    assert.match((await world.invoke({ ...create(), RequestType: 'Delete' })).Status, /SUCCESS/);
    assert.equal(world.calls.length, length, 'nothing of an invocation goes on in the next');
  });

  test('an event without properties is answered', async (t) => {
    const world = await start(t, file, aws());
    await world.fail({ ...create(), ResourceProperties: undefined });
  });

  // Pauses are cut to a hundredth, and so is the function's own time: this leaves it a minute, also on a busy machine.
  const plenty = 6e6;
  for (const [outcome, calls] of [['SUCCESS', aws], ['FAILED', () => ({})]]) {
    test(`an answer of ${outcome} that is refused or cut off twice is sent a third time`, async (t) => {
      const world = await start(t, file, calls());
      world.refuse = [503, 0];
      world.pause = 0.01;
      assert.equal((await world.invoke(create(), plenty)).Status, outcome);
    });

    test(`an answer of ${outcome} that is refused three times makes the handler throw, so that Lambda repeats it`, async (t) => {
      const world = await start(t, file, calls());
      world.refuse = [403, 403, 403];
      world.pause = 0.01;
      await assert.rejects(world.invoke(create(), plenty), /^Error: CloudFormation: 403$/);
      assert.equal(JSON.parse(world.puts[2].body).Status, outcome);
      assert.equal((await world.invoke(create(), plenty)).Status, outcome);
    });
  }

  test('an answer that is never received is given up in time', { timeout: 15000 }, async (t) => {
    const world = await start(t, file, aws());
    Object.assign(world, { pause: 0.01, answering: 0.04 });
    const silent = createServer(() => {}).listen(0, '127.0.0.1');
    await once(silent, 'listening');
    t.after(() => { silent.close(); silent.closeAllConnections(); });
    world.port = silent.address().port;
    await assert.rejects(world.invoke({ ...create(), RequestType: 'Delete' }));
    const waited = world.waits.filter((ms) => ms !== 50000).reduce((sum, ms) => sum + ms); // that is the limit of the work
    assert.ok(waited > 5000 && waited < 10000, `Lambda ends the function after 10 s: ${world.waits}`);
  });
};

module.exports = { MEDIA_SECRET, RESPONSE_URL, SECRET, STACK, awsError, start, testFrame };
