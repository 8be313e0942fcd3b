// Package functions holds the code of the two custom-resource functions, for Node.js on AWS Lambda. It knows nothing of
// the CDK.
package functions

import (
	_ "embed"
	"fmt"

	"github.com/evanw/esbuild/pkg/api"
)

//go:embed respond.js
var respondSource string

//go:embed credentials.js
var credentialsSource string

//go:embed preflight.js
var preflightSource string

// The code of the functions, minified so that it fits into the template. Lambda's ZipFile takes Frame and one of the others,
// in this order: so the template need hold the frame only once.
var (
	Frame       = bundle(respondSource, api.FormatDefault) // keeps the names that the others use
	Credentials = bundle(credentialsSource, api.FormatCommonJS)
	Preflight   = bundle(preflightSource, api.FormatCommonJS)
)

// bundle panics on code that does not parse: the code is part of the program.
func bundle(source string, format api.Format) string {
	result := api.Transform(source, api.TransformOptions{
		MinifyWhitespace:  true,
		MinifySyntax:      true,
		MinifyIdentifiers: true,
		Format:            format,
		Target:            api.ES2022,
		LegalComments:     api.LegalCommentsNone,
	})
	if len(result.Errors) > 0 {
		panic(fmt.Sprint(result.Errors))
	}
	return string(result.Code)
}
