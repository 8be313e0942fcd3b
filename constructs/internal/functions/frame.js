// The frame of all functions. Nothing is loaded outside of the handler: nobody would answer for what fails there.

// The clients of the AWS SDK that Lambda's runtime brings, by the name of their package.
const PACKAGES = {
  ACM: 'acm', AutoScaling: 'auto-scaling', CloudFormation: 'cloudformation', CloudWatch: 'cloudwatch', EC2: 'ec2', KMS: 'kms',
  Route53: 'route-53', S3: 's3', SecretsManager: 'secrets-manager', ServiceQuotas: 'service-quotas',
};

// What lasts for one invocation: its end, which aborts calls and pauses (Lambda would thaw them in a later invocation), and
// the moment until which denied calls are repeated.
let invocation = { over: new AbortController(), patientUntil: 0 };
const begin = (patienceSeconds) => {
  invocation = { over: new AbortController(), patientUntil: Date.now() + patienceSeconds * 1000 };
  return invocation.over;
};

const pause = (ms, signal = invocation.over.signal) => new Promise((resolve, reject) => {
  const stop = () => {
    clearTimeout(timer);
    reject(signal.reason);
  };
  const timer = setTimeout(() => {
    signal.removeEventListener('abort', stop);
    resolve();
  }, ms);
  if (signal.aborted) stop();
  else signal.addEventListener('abort', stop, { once: true });
});

// How EC2, and how the other services, say that a policy does not allow a call.
const DENIED = /^(UnauthorizedOperation|AccessDenied(Exception)?)$/;

// aws calls an operation of AWS. A policy is made or changed seconds before the function runs, and IAM takes a moment until it
// holds everywhere (IAM User Guide, "Changes that I make are not always immediately visible"): so a denied call is repeated.
const aws = async (service, operation, input, { signal, config } = {}) => {
  const { [`${service}Client`]: Client, [`${operation}Command`]: Command } = require(`@aws-sdk/client-${PACKAGES[service]}`);
  const { over, patientUntil } = invocation;
  const abortSignal = signal ? AbortSignal.any([over.signal, signal]) : over.signal;
  const client = new Client({ maxAttempts: 6, ...config }); // twice the default: a throttled call would fail the stack
  for (;;) {
    try {
      return await client.send(new Command(input), { abortSignal });
    } catch (error) {
      if (!DENIED.test(error?.name) || Date.now() >= patientUntil) throw error;
      console.log(`${operation}: ${error.name}; repeated, the policy may be too new`);
      await pause(4000, abortSignal);
    }
  }
};

// The stack that the function belongs to. Its id comes from the environment, never from an event.
const ownStack = async () => (await aws('CloudFormation', 'DescribeStacks', { StackName: process.env.STACK_ID })).Stacks[0];

// put writes to an address that CloudFormation signed; it tries again unless an answer is final.
const put = async (address, body, attempts, final = []) => {
  for (let attempt = 1; ; attempt++) {
    let status;
    try {
      const answer = await fetch(address,
        { method: 'PUT', body, headers: { 'content-type': '' }, redirect: 'error', signal: AbortSignal.timeout(2500) });
      if (answer.ok) return;
      status = answer.status;
      throw new Error(`CloudFormation: ${status}`);
    } catch (error) {
      if (attempt === attempts || final.includes(status)) throw error;
      await pause(Math.min(500 * attempt, 5000));
    }
  }
};
