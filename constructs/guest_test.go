package constructs_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	core "github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"

	"github.com/openvidu-ha/openvidu-ha/constructs"
)

var update = flag.Bool("update", false, "write the golden files anew (and fail, so that nobody forgets to look)")

// guests makes every construct of a cluster in one scope of somebody's stack.
func (p *program) guests() core.Construct {
	scope := core.NewConstruct(p.stack, jsii.String("Video"))
	p.turn = jsii.String("turn.example.com")
	_, fleet, _ := p.cluster(scope)
	constructs.NewTurnTlsEndpoint(scope, jsii.String("Turn"), &constructs.TurnTlsEndpointProps{
		LoadBalancerProps: p.reached("TurnCertificate"), Fleet: fleet,
	})
	return scope
}

// TestLogicalIdsArePinned: a changed one replaces a resource in every stack that uses the constructs.
func TestLogicalIdsArePinned(t *testing.T) {
	p := newProgram(t, "a", "b", "c")
	p.guests()
	var lines []string
	for id, r := range p.resources() {
		lines = append(lines, id+" "+r.Type)
	}
	slices.Sort(lines)
	got := strings.Join(lines, "\n") + "\n"
	const golden = "testdata/logical-ids.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Fatalf("%s was written: look at its diff, then run the test again", golden)
	}
	content, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimSuffix(string(content), "\n"), "\n")
	for _, line := range want {
		if !slices.Contains(lines, line) {
			t.Errorf("gone, hence deleted or replaced in every stack: %s", line)
		}
	}
	for _, line := range lines {
		if !slices.Contains(want, line) {
			t.Errorf("new: %s", line)
		}
	}
	if t.Failed() {
		t.Log("if that is meant, and CHANGELOG.md says so: go test ./constructs -run LogicalIds -update")
	}
}

// TestNothingIsMadeOutsideTheScope but what doc.go names.
func TestNothingIsMadeOutsideTheScope(t *testing.T) {
	p := newProgram(t, "a", "b", "c")
	for _, id := range []string{"Boot", "InChina"} { // names that a stack may well have
		core.NewConstruct(p.stack, &id)
	}
	before := map[string]bool{}
	paths := func(visit func(string)) {
		for _, c := range *p.app.Node().FindAll(core.ConstructOrder_PREORDER) {
			visit(*c.Node().Path())
		}
	}
	paths(func(path string) { before[path] = true })
	scope := core.NewConstruct(p.stack, jsii.String("Video"))
	p.turn = jsii.String("turn.example.com")
	masters := constructs.NewMasterCluster(scope, jsii.String("Masters"), p.masterProps())
	fleet := constructs.NewMediaFleet(scope, jsii.String("Fleet"), &constructs.MediaFleetProps{Masters: masters, Vpc: p.vpc})
	common := p.reached("Mine")
	constructs.NewMainLoadBalancer(scope, jsii.String("Main"), &constructs.MainLoadBalancerProps{LoadBalancerProps: common, Masters: masters, Fleet: fleet})
	constructs.NewTurnTlsEndpoint(scope, jsii.String("Turn"), &constructs.TurnTlsEndpointProps{LoadBalancerProps: common, Fleet: fleet})
	var outside []string
	paths(func(path string) {
		if !before[path] && !strings.HasPrefix(path, "Own/Video") && !strings.HasPrefix(path, "Own/Mine") {
			outside = append(outside, path)
		}
	})
	const image = "--aws--service--ami-amazon-linux-latest--al2023-ami-kernel-6.1-x86_64:C96584B6-F00A-464E-AD19-53AFF4B05118"
	want := []string{
		"Own/OpenViduBoot",
		"Own/OpenViduInChina",
		"Own/SsmParameterValue:" + image,
		"Own/SsmParameterValue:" + image + ".Parameter",
	}
	slices.Sort(outside)
	if !reflect.DeepEqual(outside, want) {
		t.Errorf("outside of the scope: %q\nwant %q, as doc.go says", outside, want)
	}
}

// marker is an aspect that leaves a mark on every resource.
type marker struct{ visited map[string]bool }

func (m *marker) Visit(node core.IConstruct) {
	m.visited[*node.Node().Path()] = true
	if *awscdk.CfnResource_IsCfnResource(node) {
		node.(awscdk.CfnResource).AddMetadata(jsii.String("Seen"), "yes")
	}
}

func TestAspectsReachEveryNode(t *testing.T) {
	p := newProgram(t, "a", "b", "c")
	scope := p.guests()
	m := &marker{map[string]bool{}}
	awscdk.Aspects_Of(scope).Add(m, nil)
	resources := p.resources()
	for _, c := range *scope.Node().FindAll(core.ConstructOrder_PREORDER) {
		if path := *c.Node().Path(); !m.visited[path] {
			t.Errorf("%s was not visited", path)
		}
	}
	for id, r := range resources {
		if r.Metadata["Seen"] != "yes" {
			t.Errorf("%s (%s) bears no mark", id, r.Type)
		}
	}
	if len(resources) == 0 {
		t.Error("no resources")
	}
}

func TestEveryRoleTakesAPermissionsBoundary(t *testing.T) {
	p := newProgram(t, "a", "b", "c")
	scope := p.guests()
	awsiam.PermissionsBoundary_Of(scope).Apply(awsiam.ManagedPolicy_FromManagedPolicyName(p.stack, jsii.String("Boundary"), jsii.String("boundary")))
	roles := ofType(p.resources(), "AWS::IAM::Role")
	for _, role := range roles {
		if boundary := text(role.Properties["PermissionsBoundary"]); !strings.Contains(boundary, ":policy/boundary") {
			t.Errorf("a role's boundary is %s: %s", boundary, text(role))
		}
	}
	if len(roles) != 5 {
		t.Errorf("%d roles, want those of masters, Media Nodes, three functions and snapshots", len(roles))
	}
}

// TestSynthesizerWithAQualifierOfItsOwn: bootstrapped accounts may have one; there is no asset but the template itself.
func TestSynthesizerWithAQualifierOfItsOwn(t *testing.T) {
	dir := t.TempDir()
	app := awscdk.NewApp(&awscdk.AppProps{Outdir: &dir, AnalyticsReporting: jsii.Bool(false)})
	// In a stage, too: paths, hence the cluster's tag, have one part more there.
	stage := awscdk.NewStage(app, jsii.String("Live"), nil)
	stack := awscdk.NewStack(stage, jsii.String("Own"), &awscdk.StackProps{
		Env:         &awscdk.Environment{Account: jsii.String("123456789012"), Region: jsii.String("eu-west-1")},
		Synthesizer: awscdk.NewDefaultStackSynthesizer(&awscdk.DefaultStackSynthesizerProps{Qualifier: jsii.String("video1")}),
	})
	p := &program{t, filepath.Join(dir, "assembly-Live"), app, stack, importVpc(stack, "a", "b", "c"), nil}
	p.guests()
	name := *stack.ArtifactId()
	resources := p.resourcesOf(name)
	if len(ofType(resources, "AWS::AutoScaling::AutoScalingGroup")) != 5 {
		t.Errorf("groups: %v", ofType(resources, "AWS::AutoScaling::AutoScalingGroup"))
	}
	if tags := text(resources); !strings.Contains(tags, `"Key":"OpenViduCluster","PropagateAtLaunch":true,"Value":{"Fn::Sub":"${AWS::StackId}/Video/Masters"}`) {
		t.Error("the cluster's tag is not the path within the stack")
	}
	content, err := os.ReadFile(filepath.Join(p.dir, name+".assets.json"))
	if err != nil {
		t.Fatal(err)
	}
	var assets struct {
		Files, DockerImages map[string]struct{ Source struct{ Path string } }
	}
	if err := json.Unmarshal(content, &assets); err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, file := range assets.Files {
		paths = append(paths, file.Source.Path)
	}
	if len(assets.DockerImages) != 0 || !reflect.DeepEqual(paths, []string{name + ".template.json"}) {
		t.Errorf("assets: %v, images: %v", paths, slices.Collect(maps.Keys(assets.DockerImages)))
	}
	if !strings.Contains(string(content), "cdk-video1-assets") {
		t.Error("the template does not go where the qualifier says")
	}
}

// TestConsumerOutsideTheRepository is a module of somebody who imports the constructs, with the program of the documentation: it
// builds and synthesizes. It needs no network: its dependencies are the repository's, and a VPC that was not looked up has two
// made-up subnets.
func TestConsumerOutsideTheRepository(t *testing.T) {
	dir := t.TempDir()
	repository, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	module, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	sums, err := os.ReadFile("../go.sum")
	if err != nil {
		t.Fatal(err)
	}
	const path = "github.com/openvidu-ha/openvidu-ha"
	consumer := strings.Replace(string(module), "module "+path, "module example.com/consumer", 1) +
		fmt.Sprintf("\nrequire %s v0.0.0\n\nreplace %s => %s\n", path, path, repository)
	source := documentedProgram(t)
	for name, content := range map[string]string{"go.mod": consumer, "go.sum": string(sums), "main.go": source} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := exec.Command("go", "run", ".")
	run.Dir = dir
	run.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOPROXY=off", "GOWORK=off",
		"CDK_OUTDIR=out", "CDK_DEFAULT_ACCOUNT=123456789012", "CDK_DEFAULT_REGION=eu-west-1") // as the CDK CLI says them
	if output, err := run.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	p := &program{t: t, dir: filepath.Join(dir, "out")}
	if got := len(ofType(p.read("Video").Resources, "AWS::AutoScaling::AutoScalingGroup")); got != 5 {
		t.Errorf("%d groups", got)
	}
}

// documentedProgram is the one whole program that stands in README.md, or in a page of docs.
func documentedProgram(t *testing.T) string {
	t.Helper()
	pages, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	var programs []string
	for _, page := range append(pages, "../README.md") {
		content, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range regexp.MustCompile("(?s)\n```go\n(package main\n.*?)\n```\n").FindAllSubmatch(content, -1) {
			programs = append(programs, string(found[1])+"\n")
		}
	}
	if len(programs) != 1 {
		t.Fatalf("%d whole programs stand in the documentation", len(programs))
	}
	return programs[0]
}
