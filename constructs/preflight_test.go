package constructs_test

import (
	"maps"
	"reflect"
	"testing"

	"github.com/aws/jsii-runtime-go"

	"github.com/openvidu-ha/openvidu-ha/constructs"
)

func TestPreflightTellsTheFunctionWhatItIsGiven(t *testing.T) {
	subnets := func(ids ...string) *[]*string { return jsii.Strings(ids...) }
	// What may be left out is left out, but for the sizes that nodes have then.
	required := func() *constructs.PreflightProps {
		return &constructs.PreflightProps{
			VpcId: jsii.String("vpc-1"), MasterSubnetIds: subnets("subnet-a"), MediaSubnetIds: subnets("subnet-b"), ImageId: jsii.String("ami-1"),
			MasterInstanceType: jsii.String("c6a.xlarge"), MediaInstanceType: jsii.String("c6a.2xlarge"),
			DomainName: jsii.String("video.example.com"), CertificateArn: jsii.String("arn:main"),
			DiskSize: jsii.Number(100), RetainVolumes: jsii.String("true"),
		}
	}
	want := map[string]any{
		"OpenViduVPC": "vpc-1", "OpenViduMasterNodeSubnets": []any{"subnet-a"}, "OpenViduMediaNodeSubnets": []any{"subnet-b"}, "AmiId": "ami-1",
		"MasterNodeInstanceType": "c6a.xlarge", "MediaNodeInstanceType": "c6a.2xlarge",
		"DomainName": "video.example.com", "OpenViduCertificateARN": "arn:main",
		"DiskSize": 100.0, "RetainVolumes": "true", "MasterNodeRootVolumeSize": 50.0, "MediaNodeRootVolumeSize": 50.0,
	}
	full := required()
	full.LoadBalancerSubnetIds = subnets("subnet-c", "subnet-d")
	full.MasterRootVolumeSize, full.MediaRootVolumeSize = jsii.Number(80), jsii.Number(90)
	full.RecordingsStorage, full.AppDataBucketName, full.ClusterDataBucketName = jsii.String("S3"), jsii.String("mine"), jsii.String("")
	full.SnapshotIds, full.RestoredSecretArn = subnets("snap-1", "snap-2"), jsii.String("arn:secret")
	full.InitialCapacity, full.MinCapacity, full.MaxCapacity = jsii.Number(2), jsii.Number(1), jsii.Number(9)
	full.TurnDomainName, full.TurnCertificateArn = jsii.String("turn.example.com"), jsii.String("arn:turn")
	more := maps.Clone(want)
	maps.Copy(more, map[string]any{
		"LoadBalancerSubnets": []any{"subnet-c", "subnet-d"}, "MasterNodeRootVolumeSize": 80.0, "MediaNodeRootVolumeSize": 90.0,
		"RecordingsStorage": "S3", "S3AppDataBucketName": "mine", "S3ClusterDataBucketName": "",
		"VolumeSnapshotIds": []any{"snap-1", "snap-2"}, "RestoredSharedInfoArn": "arn:secret",
		"InitialNumberOfMediaNodes": 2.0, "MinNumberOfMediaNodes": 1.0, "MaxNumberOfMediaNodes": 9.0,
		"TurnDomainName": "turn.example.com", "TurnCertificateARN": "arn:turn",
	})
	for _, c := range []struct {
		props *constructs.PreflightProps
		want  map[string]any
	}{{required(), want}, {full, more}} {
		p := newProgram(t, "a")
		constructs.NewPreflight(p.stack, jsii.String("Preflight"), c.props)
		got := ofType(p.resources(), "Custom::OpenViduPreflight")[0].Properties
		delete(got, "ServiceToken")
		delete(got, "ServiceTimeout")
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("the checks get\n%v\nwant\n%v", got, c.want)
		}
	}
}
