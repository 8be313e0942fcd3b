// Package publish_test publishes templates to a moto server: the command as it is, the real AWS CLI, a stand-in for S3 alone.
package publish_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/openvidu-ha/openvidu-ha/lab/internal/moto"
)

const repository = "../.."

var publisher, server string // the command's binary, the server's address

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "openvidu-publish")
	must(err)
	defer os.RemoveAll(dir)
	publisher = filepath.Join(dir, "publish")
	build := exec.Command("go", "build", "-o", publisher, "./internal/publish")
	build.Dir = repository
	if output, err := build.CombinedOutput(); err != nil {
		must(fmt.Errorf("%w\n%s", err, output))
	}
	address, stop, err := moto.Start()
	must(err)
	defer stop()
	server = address
	return m.Run()
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// call S3 as the account's owner would; moto looks at the region of a signature, not at the signature.
func call(method, path, body string) (int, string) {
	request, err := http.NewRequest(method, server+"/"+path, strings.NewReader(body))
	must(err)
	request.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=test/20250101/eu-west-1/s3/aws4_request")
	response, err := http.DefaultClient.Do(request)
	must(err)
	var content bytes.Buffer
	_, err = content.ReadFrom(response.Body)
	must(err)
	must(response.Body.Close())
	return response.StatusCode, content.String()
}

// bucket is an empty one; every test has its own.
func bucket(t *testing.T) string {
	t.Helper()
	name := strings.ToLower(t.Name())
	code, answer := call(http.MethodPut, name, `<CreateBucketConfiguration><LocationConstraint>eu-west-1</LocationConstraint></CreateBucketConfiguration>`)
	if code != http.StatusOK {
		t.Fatal(code, answer)
	}
	return name
}

// object is what the bucket holds, "" if there is nothing.
func object(t *testing.T, name, key string) string {
	t.Helper()
	code, content := call(http.MethodGet, name+"/"+key+"/openvidu-ha.template.json", "")
	if code != http.StatusOK && code != http.StatusNotFound {
		t.Fatal(key, code, content)
	}
	if code == http.StatusNotFound {
		return ""
	}
	return content
}

// write a small template of a version; content tells two of one version apart.
func write(t *testing.T, version, content string) string {
	t.Helper()
	text, err := json.Marshal(map[string]any{
		"Metadata":  map[string]any{"OpenViduHA": map[string]any{"Version": version}, "Content": content},
		"Resources": map[string]any{"Handle": map[string]any{"Type": "AWS::CloudFormation::WaitConditionHandle"}},
	})
	must(err)
	name := filepath.Join(t.TempDir(), "template.json")
	must(os.WriteFile(name, text, 0o600))
	return name
}

func publish(arguments ...string) (string, error) {
	output, err := exec.Command(publisher, arguments...).CombinedOutput()
	return string(output), err
}

func succeeds(t *testing.T, arguments ...string) string {
	t.Helper()
	output, err := publish(arguments...)
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	return output
}

func refused(t *testing.T, why string, arguments ...string) {
	t.Helper()
	output, err := publish(arguments...)
	if failed := new(exec.ExitError); !errors.As(err, &failed) || !strings.Contains(output, why) {
		t.Fatalf("want a refusal with %q, got %v\n%s", why, err, output)
	}
}

func TestVersionIsNeverOverwritten(t *testing.T) {
	t.Parallel()
	name := bucket(t)
	first, other := write(t, "1.0.0", "first"), write(t, "1.0.0", "other")
	succeeds(t, "-bucket", name, "-endpoint", server, "-template", first)
	if output := succeeds(t, "-bucket", name, "-endpoint", server, "-template", first); !strings.Contains(output, "there already, with the same content") {
		t.Error(output)
	}
	published := object(t, name, "1.0.0")
	refused(t, "raise it in version.go", "-bucket", name, "-endpoint", server, "-template", other)

	// Somebody else publishes between the look and the write: the look finds nothing, the write must.
	blind := front(t, func(r *http.Request) bool { return r.URL.Query().Has("list-type") }, func(w http.ResponseWriter) {
		_, _ = fmt.Fprint(w, `<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>`)
	})
	refused(t, "raise it in version.go", "-bucket", name, "-endpoint", blind, "-template", other)
	for _, key := range []string{"1.0.0", "latest"} {
		if got := object(t, name, key); got != published || !strings.Contains(got, "first") {
			t.Errorf("%s is now %s", key, got)
		}
	}
}

func TestLatestIsTheNewestStable(t *testing.T) {
	t.Parallel()
	name := bucket(t)
	for _, c := range []struct{ version, latest string }{
		{"0.9.0", "0.9.0"},
		{"0.10.0", "0.10.0"},
		{"0.9.1", "0.10.0"},
		{"1.0.0-rc.1", "0.10.0"},
	} {
		succeeds(t, "-bucket", name, "-endpoint", server, "-template", write(t, c.version, ""))
		if got := object(t, name, "latest"); !strings.Contains(got, `"`+c.latest+`"`) {
			t.Errorf("after %s: latest is %s, want %s", c.version, got, c.latest)
		}
		if object(t, name, c.version) == "" {
			t.Errorf("%s was not published", c.version)
		}
	}
}

func TestServiceWithoutConditionalWrites(t *testing.T) {
	t.Parallel()
	name := bucket(t)
	old := front(t, func(r *http.Request) bool { return r.Header.Get("If-None-Match") != "" }, func(w http.ResponseWriter) {
		w.WriteHeader(http.StatusNotImplemented)
		_, _ = fmt.Fprint(w, `<Error><Code>NotImplemented</Code><Message>A header is not implemented</Message></Error>`)
	})
	output := succeeds(t, "-bucket", name, "-endpoint", old, "-template", write(t, "1.0.0", "first"))
	if !strings.Contains(output, "no quick-create link") || strings.Contains(output, "console") {
		t.Error(output)
	}
	refused(t, "raise it in version.go", "-bucket", name, "-endpoint", old, "-template", write(t, "1.0.0", "other"))
	if got := object(t, name, "1.0.0"); !strings.Contains(got, "first") {
		t.Error(got)
	}
}

func TestWhatIsStoredOtherwiseIsNoticed(t *testing.T) {
	t.Parallel()
	name := bucket(t)
	broken := front(t, func(r *http.Request) bool {
		return r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, ".json")
	},
		func(w http.ResponseWriter) { _, _ = fmt.Fprint(w, "{}") })
	refused(t, "has other content", "-bucket", name, "-endpoint", broken, "-template", write(t, "1.0.0", ""))
}

func TestNothingIsUploadedThatIsWrong(t *testing.T) {
	t.Parallel()
	name := bucket(t)
	bad := filepath.Join(t.TempDir(), "bad.json")
	must(os.WriteFile(bad, []byte(`{"Metadata":{"OpenViduHA":{"Version":"1.0.0"}},"Resources":{"A":{"Type":"AWS::EC2::Volume"}}}`), 0o600))
	refused(t, "cfn-lint", "-bucket", name, "-endpoint", server, "-template", bad)
	refused(t, `its version is "1.0"`, "-bucket", name, "-endpoint", server, "-template", write(t, "1.0", ""))
	secret := filepath.Join(t.TempDir(), "values.json")
	must(os.WriteFile(secret, []byte(`{"Parameters":{"OpenViduLicense":"x"}}`), 0o600))
	refused(t, "OpenViduLicense is secret", "-bucket", name, "-endpoint", server, "-parameters", secret,
		"-template", filepath.Join(repository, "testdata/OpenViduHA.template.json"))
	for _, version := range []string{"1.0.0", "1.0", "0.1.0"} {
		if object(t, name, version) != "" {
			t.Errorf("%s was uploaded", version)
		}
	}
	refused(t, "NoSuchBucket", "-bucket", "nobody", "-endpoint", server, "-template", write(t, "1.0.0", ""))
	refused(t, "no bucket is given")
}

// front is moto, except for what it answers itself.
func front(t *testing.T, itself func(*http.Request) bool, answer func(http.ResponseWriter)) string {
	t.Helper()
	target, err := url.Parse(server)
	must(err)
	proxy := httputil.NewSingleHostReverseProxy(target)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if itself(r) {
			answer(w)
			return
		}
		proxy.ServeHTTP(w, r)
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return "http://" + listener.Addr().String()
}

func TestMakeDeployWrapsTheCdk(t *testing.T) {
	t.Parallel()
	bin := t.TempDir()
	must(os.WriteFile(filepath.Join(bin, "npx"), []byte("#!/bin/sh\nprintf '<%s>\\n' \"$@\"\n"), 0o700))
	deploy := func(license, parameters string) (string, error) {
		make := exec.Command("make", "deploy", "FLAGS=--no-rollback", "PARAMETERS="+parameters)
		make.Dir = repository
		make.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
		make.Stdin = strings.NewReader(license + "\n")
		output, err := make.CombinedOutput()
		return string(output), err
	}
	output, err := deploy("a key", "docs/parameters.example.json")
	for _, want := range []string{"<deploy>\n<--no-rollback>\n", "\n<--parameters=DomainName=openvidu.example.com>\n",
		"\n<--parameters=OpenViduMasterNodeSubnets=subnet-0aaaaaaaaaaaaaaaa,subnet-0bbbbbbbbbbbbbbbb,subnet-0cccccccccccccccc>\n",
	} {
		if err != nil || !strings.Contains(output, want) {
			t.Errorf("%v: no %q in\n%s", err, want, output)
		}
	}
	if strings.Contains(output, "a key") {
		t.Errorf("the licence key is an argument, which others see:\n%s", output)
	}
	if output, err := deploy("", "docs/parameters.example.json"); err != nil || strings.Contains(output, "OpenViduLicense") {
		t.Errorf("an update without a license key: %v\n%s", err, output)
	}
	if output, err := deploy("", "missing.json"); err == nil || !strings.Contains(output, "give a JSON file like docs/parameters.example.json") {
		t.Errorf("no file: %v\n%s", err, output)
	}
}
