package constructs

import (
	"strings"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awss3"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"

	"github.com/openvidu-ha/openvidu-ha/internal/compliance"
)

// RecordingBucketsProps are the properties of RecordingBuckets.
type RecordingBucketsProps struct {
	// AppDataBucketName of a bucket of yours, in the cluster's region, for recordings and other data of applications.
	// Default: a new bucket (also for ""), see RecordingBuckets.
	AppDataBucketName *string
	// ClusterDataBucketName of a bucket of yours, in the cluster's region, for the cluster's own data: logs and metrics.
	// It must be another one. Default: a new bucket (also for ""), see RecordingBuckets.
	ClusterDataBucketName *string
	// Condition under which the cluster uses S3, decided at deployment. Default: always.
	Condition awscdk.CfnCondition
}

// RecordingBuckets are the two buckets of a cluster that keeps recordings in S3 instead of on its volumes. New ones are
// encrypted, private, take only TLS, keep old versions for 30 days, and are retained when the stack is deleted. The nodes
// reach them with their roles; there are no keys.
type RecordingBuckets interface {
	constructs.Construct
	// AppDataBucketName is the bucket of recordings.
	AppDataBucketName() *string
	// ClusterDataBucketName is the bucket of the cluster's own data.
	ClusterDataBucketName() *string

	// policy of the nodes, and the settings that OpenVidu takes (EXTERNAL_S3_*), where the condition holds.
	policy() awsiam.IManagedPolicy
	settings() any
}

type recordingBuckets struct {
	constructs.Construct
	when                 awscdk.CfnCondition
	appData, clusterData *string
	access               awsiam.IManagedPolicy
}

// NewRecordingBuckets makes the buckets that are not given. It panics on wrong props, with all problems at once.
func NewRecordingBuckets(scope constructs.Construct, id *string, props *RecordingBucketsProps) RecordingBuckets {
	props = orNew(props)
	var wrong problems
	app, cluster := or(props.AppDataBucketName, ""), or(props.ClusterDataBucketName, "")
	wrong.match("AppDataBucketName", &app, bucketPattern, "give the name of a bucket, or nothing")
	wrong.match("ClusterDataBucketName", &cluster, bucketPattern, "give the name of a bucket, or nothing")
	if app != "" && app == cluster {
		wrong.add("ClusterDataBucketName is %q, like AppDataBucketName: give another bucket", cluster)
	}
	wrong.report(scope, id)

	b := &recordingBuckets{when: props.Condition}
	constructs.NewConstruct_Override(b, scope, id)
	b.appData = b.newBucket("AppData", app)
	b.clusterData = b.newBucket("ClusterData", cluster)
	b.allowAccess()
	return b
}

// newBucket makes a bucket where no name is given, and gives the name of the one to use.
func (b *recordingBuckets) newBucket(id, given string) *string {
	name := &given
	if given == "" || *awscdk.Token_IsUnresolved(given) {
		made := awss3.NewBucket(b, &id, &awss3.BucketProps{
			Encryption:        awss3.BucketEncryption_S3_MANAGED,
			BlockPublicAccess: awss3.BlockPublicAccess_BLOCK_ALL(),
			EnforceSSL:        jsii.Bool(true),
			Versioned:         jsii.Bool(true),
			// Also when a creation is rolled back: a node may have written by then, and only an empty bucket can be deleted.
			RemovalPolicy: awscdk.RemovalPolicy_RETAIN,
			LifecycleRules: &[]*awss3.LifecycleRule{{
				NoncurrentVersionExpiration:         awscdk.Duration_Days(jsii.Number(30)),
				ExpiredObjectDeleteMarker:           jsii.Bool(true), // what Loki and Mimir compact leaves one each
				AbortIncompleteMultipartUploadAfter: awscdk.Duration_Days(jsii.Number(7)),
			}},
		})
		made.Policy().ApplyRemovalPolicy(awscdk.RemovalPolicy_RETAIN) // else a retained bucket would take plain HTTP
		compliance.Accept(made, "Server access logs take one more bucket, which is the account's: see Server access logging of the bucket.",
			"AwsSolutions-S1", "NIST.800.53.R5-S3BucketLoggingEnabled")
		compliance.Accept(made, "A second region is the account's to choose; old versions are kept for 30 days.", "NIST.800.53.R5-S3BucketReplicationEnabled")
		compliance.Accept(made, "S3 encrypts with keys of its own. Who wants one of KMS gives a bucket that has it.", "NIST.800.53.R5-S3DefaultEncryptionKMS")
		name = made.BucketName()
		when := b.when
		if given != "" {
			unnamed := awscdk.NewCfnCondition(b, jsii.String("No"+id), &awscdk.CfnConditionProps{Expression: awscdk.Fn_ConditionEquals(given, "")})
			name = awscdk.Fn_ConditionIf(unnamed.LogicalId(), name, given).ToString()
			if when = unnamed; b.when != nil {
				when = awscdk.NewCfnCondition(b, jsii.String("New"+id), &awscdk.CfnConditionProps{Expression: awscdk.Fn_ConditionAnd(b.when, unnamed)})
			}
		}
		for _, child := range *made.Node().FindAll(constructs.ConstructOrder_PREORDER) {
			if resource, ok := child.(awscdk.CfnResource); ok {
				resource.CfnOptions().SetCondition(when)
			}
		}
	}
	return name
}

// allowAccess makes the policy of the nodes. All have the same: which service on which node uses which bucket is OpenVidu's
// matter.
func (b *recordingBuckets) allowAccess() {
	arns := func(suffix string) *[]*string {
		var out []*string
		for _, name := range []*string{b.appData, b.clusterData} {
			out = append(out, awscdk.Fn_Sub(jsii.String("arn:${AWS::Partition}:s3:::${Name}"+suffix), &map[string]*string{"Name": name}))
		}
		return &out
	}
	// A name that somebody was told, or mistook, may be that of another account's bucket.
	ours := &map[string]any{"StringEquals": map[string]any{"s3:ResourceAccount": awscdk.Stack_Of(b).Account()}}
	policy := awsiam.NewManagedPolicy(b, jsii.String("Access"), &awsiam.ManagedPolicyProps{Statements: &[]awsiam.PolicyStatement{
		awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{
			Actions:    jsii.Strings("s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"),
			Resources:  arns(""),
			Conditions: ours,
		}),
		awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{
			Actions:    jsii.Strings("s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject", "s3:ListMultipartUploadParts", "s3:PutObject"),
			Resources:  arns("/*"),
			Conditions: ours,
		}),
	}})
	compliance.Accept(policy, "All objects of the two buckets, which are the cluster's own.",
		`AwsSolutions-IAM5[/^Resource::\["arn:\$\{AWS::Partition\}:s3:::\$\{Name\}/\*"/]`)
	b.access = policy
	if b.when != nil {
		policy.Node().DefaultChild().(awscdk.CfnResource).CfnOptions().SetCondition(b.when)
		b.access = awsiam.ManagedPolicy_FromManagedPolicyArn(b, jsii.String("AccessOrNone"),
			awscdk.Fn_ConditionIf(b.when.LogicalId(), policy.ManagedPolicyArn(), awscdk.Aws_NO_VALUE()).ToString())
	}
}

func (b *recordingBuckets) AppDataBucketName() *string     { return b.appData }
func (b *recordingBuckets) ClusterDataBucketName() *string { return b.clusterData }
func (b *recordingBuckets) ToString() *string              { return b.Node().Path() }
func (b *recordingBuckets) policy() awsiam.IManagedPolicy  { return b.access }

func (b *recordingBuckets) settings() any {
	region := *awscdk.Stack_Of(b).Region()
	settings := map[string]any{
		"EXTERNAL_S3_ENDPOINT":            strings.Join([]string{"https://s3", region, *awscdk.Aws_URL_SUFFIX()}, "."),
		"EXTERNAL_S3_REGION":              region,
		"EXTERNAL_S3_PATH_STYLE_ACCESS":   "false",
		"EXTERNAL_S3_BUCKET_APP_DATA":     b.appData,
		"EXTERNAL_S3_BUCKET_CLUSTER_DATA": b.clusterData,
	}
	if b.when != nil {
		return awscdk.Fn_ConditionIf(b.when.LogicalId(), settings, awscdk.Aws_NO_VALUE())
	}
	return settings
}
