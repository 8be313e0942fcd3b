// Package functions holds the code of the functions, for Node.js on AWS Lambda, as it was written: who looks into Lambda's
// console, or into the diff of two templates, can read it. It knows nothing of the CDK.
package functions

import _ "embed"

// The code of the functions. Lambda's ZipFile takes Frame, then Respond where the function answers CloudFormation, then the
// function itself: so the template need hold the first two only once.
var (
	//go:embed frame.js
	Frame string
	//go:embed respond.js
	Respond string
	//go:embed credentials.js
	Credentials string
	//go:embed preflight.js
	Preflight string
	//go:embed launches.js
	Launches string
)
