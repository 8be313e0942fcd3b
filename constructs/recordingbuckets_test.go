package constructs_test

import (
	"strings"
	"testing"

	"github.com/aws/jsii-runtime-go"

	"github.com/openvidu-ha/openvidu-ha/constructs"
)

func TestRecordingsGoToBuckets(t *testing.T) {
	p := newProgram(t, "a", "b")
	buckets := constructs.NewRecordingBuckets(p.stack, jsii.String("Buckets"), &constructs.RecordingBucketsProps{
		AppDataBucketName: jsii.String("my-recordings"),
	})
	props := p.masterProps()
	props.RecordingBuckets = buckets
	masters := constructs.NewMasterCluster(p.stack, jsii.String("Masters"), props)
	constructs.NewMediaFleet(p.stack, jsii.String("Fleet"), &constructs.MediaFleetProps{Masters: masters, Vpc: p.vpc})
	if *buckets.AppDataBucketName() != "my-recordings" || *buckets.ClusterDataBucketName() == "" {
		t.Errorf("names: %s, %s", *buckets.AppDataBucketName(), *buckets.ClusterDataBucketName())
	}
	resources := p.resources()
	made := ofType(resources, "AWS::S3::Bucket")
	if len(made) != 1 {
		t.Fatalf("%d buckets made, want the one that was not given", len(made))
	}
	bucket := text(made[0].Properties)
	for _, want := range []string{`"SSEAlgorithm":"AES256"`, `"BlockPublicAcls":true`, `"RestrictPublicBuckets":true`, `"Status":"Enabled"`, `"NoncurrentDays":30`, `"DaysAfterInitiation":7`, `"ExpiredObjectDeleteMarker":true`} {
		if !strings.Contains(bucket, want) {
			t.Errorf("the bucket lacks %s: %s", want, bucket)
		}
	}
	if made[0].DeletionPolicy != "Retain" {
		t.Errorf("recordings are deleted with the stack: %s", made[0].DeletionPolicy)
	}
	if policy := text(ofType(resources, "AWS::S3::BucketPolicy")); !strings.Contains(policy, `"aws:SecureTransport":"false"`) || !strings.Contains(policy, `"Effect":"Deny"`) {
		t.Errorf("the bucket takes requests without TLS: %s", policy)
	}
	settings := ofType(resources, "Custom::OpenViduCredentials")[0].Properties["Settings"].(map[string]any)["S3"].(map[string]any)
	want := map[string]string{"EXTERNAL_S3_REGION": "eu-west-1", "EXTERNAL_S3_PATH_STYLE_ACCESS": "false", "EXTERNAL_S3_BUCKET_APP_DATA": "my-recordings"}
	for key, value := range want {
		if settings[key] != value {
			t.Errorf("%s is %v", key, settings[key])
		}
	}
	if endpoint := text(settings["EXTERNAL_S3_ENDPOINT"]); !strings.Contains(endpoint, "https://s3.eu-west-1.") || !strings.Contains(endpoint, "AWS::URLSuffix") {
		t.Errorf("endpoint: %s", endpoint)
	}
	if settings["EXTERNAL_S3_BUCKET_CLUSTER_DATA"] == nil || len(settings) != 5 {
		t.Errorf("settings: %v", settings)
	}
	nodes := 0
	for _, role := range ofType(resources, "AWS::IAM::Role") {
		if strings.Contains(text(role.Properties["AssumeRolePolicyDocument"]), "ec2.amazonaws.com") && strings.Contains(text(role.Properties["ManagedPolicyArns"]), "BucketsAccess") {
			nodes++
		}
	}
	if nodes != 2 {
		t.Errorf("%d of 2 roles may use the buckets", nodes)
	}
	if policy := text(ofType(resources, "AWS::IAM::ManagedPolicy")); strings.Contains(policy, `"s3:*"`) || !strings.Contains(policy, "my-recordings/*") && !strings.Contains(policy, `${Name}/*`) {
		t.Errorf("policy: %s", policy)
	}
}

func TestRecordingsStayOnTheVolumesByDefault(t *testing.T) {
	p := newProgram(t, "a")
	p.cluster(p.stack)
	resources := p.resources()
	if len(ofType(resources, "AWS::S3::Bucket")) > 0 || strings.Contains(text(resources), "EXTERNAL_S3_BUCKET_APP_DATA\":") {
		t.Error("there are buckets, or settings for them")
	}
}
