// Loaded into the CDK CLI by make deploy (NODE_OPTIONS). The CLI takes parameters as arguments alone, which every user of the computer
// can read while it runs. So the licence key comes by the environment, and becomes an argument inside the process.
const license = process.env.OPENVIDU_LICENSE;
if (license && /[\\/]cdk$/.test(process.argv[1] || '')) process.argv.push(`--parameters=OpenViduLicense=${license}`);
