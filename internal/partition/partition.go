// Package partition knows the addresses that differ between AWS's partitions.
package partition

import "strings"

// Partition of AWS: separate accounts, services and addresses.
type Partition struct {
	// Name, as the pseudo parameter AWS::Partition has it.
	Name string
	// Console is the domain of the web console; a region's own console is a subdomain of it.
	Console string
	// Suffix of the services' domains, as the pseudo parameter AWS::URLSuffix has it.
	Suffix string

	regions string // what the names of its regions begin with
}

// Commercial is the partition of most regions. Partitions that are not listed have its addresses here.
var Commercial = Partition{Name: "aws", Console: "console.aws.amazon.com", Suffix: "amazonaws.com"}

// Others are the partitions with addresses of their own.
var Others = []Partition{
	{"aws-eusc", "console.amazonaws-eusc.eu", "amazonaws.eu", "eusc-"},
	{"aws-us-gov", "console.amazonaws-us-gov.com", "amazonaws.com", "us-gov-"},
	{"aws-cn", "console.amazonaws.cn", "amazonaws.com.cn", "cn-"},
}

// Of a region.
func Of(region string) Partition {
	for _, p := range Others {
		if strings.HasPrefix(region, p.regions) {
			return p
		}
	}
	return Commercial
}
