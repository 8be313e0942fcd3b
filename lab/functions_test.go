package lab

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// with gives the properties that a custom resource last had, some of them changed.
func (s *Stack) with(id string, change map[string]any) map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	properties := maps.Clone(s.applied[id])
	maps.Copy(properties, change)
	return properties
}

func newZone(name string) string {
	body := `<CreateHostedZoneRequest xmlns="https://route53.amazonaws.com/doc/2013-04-01/"><Name>` + name + `</Name><CallerReference>lab</CallerReference></CreateHostedZoneRequest>`
	request, err := http.NewRequest(http.MethodPost, moto+"/2013-04-01/hostedzone", strings.NewReader(body))
	must(err)
	request.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=OWNER/20260101/"+region+"/route53/aws4_request, SignedHeaders=host, Signature=0")
	response, err := http.DefaultClient.Do(request)
	must(err)
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	must(err)
	return strings.TrimPrefix(field(string(answer), "Id"), "/hostedzone/")
}

// The checks ask moto for what EC2 and ACM would know.
func TestPreflightRefusesWithEveryProblemAtOnce(t *testing.T) {
	scenario(t, Options{Masters: -1}, nil, func(t testing.TB, s *Stack) {
		const id = "PreflightChecks"
		elsewhere := importCertificate("other.example.com")
		zone := newZone("example.net.")
		for name, c := range map[string]struct {
			change map[string]any
			says   []string
		}{
			"nothing wrong":      {nil, nil},
			"unknown subnet":     {map[string]any{"OpenViduMediaNodeSubnets": []any{"subnet-0123456789abcdef0"}}, []string{"OpenViduMediaNodeSubnets: 'subnet-0123456789abcdef0' does not exist in " + region}},
			"unknown type":       {map[string]any{"MediaNodeInstanceType": "c99.xlarge"}, []string{"MediaNodeInstanceType: 'c99.xlarge' does not exist"}},
			"two architectures":  {map[string]any{"MediaNodeInstanceType": "c7g.xlarge"}, []string{"choose both of one architecture"}},
			"other architecture": {map[string]any{"MasterNodeInstanceType": "c7g.xlarge", "MediaNodeInstanceType": "c7g.xlarge"}, []string{"AmiId: '", "al2023-ami-kernel-default-arm64"}},
			"other domain":       {map[string]any{"OpenViduCertificateARN": elsewhere}, []string{"OpenViduCertificateARN: '", "covers other.example.com, not DomainName"}},
			"unknown zone":       {map[string]any{"HostedZoneId": "Z0123456789ABCDEFGHIJ"}, []string{"HostedZoneId: 'Z0123456789ABCDEFGHIJ' does not exist"}},
			"zone of elsewhere":  {map[string]any{"HostedZoneId": zone}, []string{"HostedZoneId: '" + zone + "' is example.net., which DomainName openvidu.example.com is not in"}},
			"unknown image":      {map[string]any{"AmiId": "ami-0123456789abcdef0"}, []string{"AmiId: 'ami-0123456789abcdef0' does not exist"}},
			"everything": {map[string]any{"OpenViduMasterNodeSubnets": append([]any{"subnet-0123456789abcdef0"}, subnets...), "OpenViduCertificateARN": elsewhere,
				"MediaNodeInstanceType": "c99.xlarge", "MinNumberOfMediaNodes": 9.0},
				[]string{"has 5 subnets; choose 1 to 4", "does not exist in " + region, "not DomainName", "c99.xlarge", "MinNumberOfMediaNodes: '9' is more than"}},
		} {
			answer := s.Invoke(id, Event{RequestType: "Create", ResourceProperties: s.with(id, c.change)})
			if c.says == nil && answer.Status != "SUCCESS" || c.says != nil && answer.Status != "FAILED" || answer.Answers != 1 {
				t.Errorf("%s: %+v", name, answer)
			}
			for _, part := range c.says {
				if !strings.Contains(answer.Reason, part) {
					t.Errorf("%s: the reason lacks %q: %s", name, part, answer.Reason)
				}
			}
			if strings.Contains(answer.Log, "not checked") && name != "unknown image" {
				t.Errorf("%s: a check was skipped:\n%s", name, answer.Log)
			}
		}
	})
}

// CloudFormation may repeat an event late: what came after it must not be lost.
func TestEventsOutOfOrderLoseNoCredential(t *testing.T) {
	scenario(t, Options{Masters: -1}, nil, func(t testing.TB, s *Stack) {
		const id = "MasterInfoFill"
		first := s.Secret()
		old := s.with(id, nil)
		settings := maps.Clone(old["Settings"].(map[string]any))
		settings["OPENVIDU_RTC_ENGINE"] = "mediasoup"
		now := s.with(id, map[string]any{"Settings": settings})
		send := func(event Event) {
			t.Helper()
			if answer := s.Invoke(id, event); answer.Status != "SUCCESS" || answer.Answers != 1 {
				t.Errorf("%s: %+v", event.RequestType, answer)
			}
		}
		update := Event{RequestType: "Update", RequestId: "00000000-0000-0000-0000-0000000000b1", ResourceProperties: now, OldResourceProperties: old}
		send(update)
		expect(t, "engine", s.Secret()["OPENVIDU_RTC_ENGINE"].(string), "mediasoup")
		s.SetSecret(map[string]any{"GRAFANA_ADMIN_PASSWORD": "edited-by-hand"})
		send(Event{RequestType: "Create", RequestId: "00000000-0000-0000-0000-0000000000b0", ResourceProperties: old}) // a late one
		send(update)                                                                                                   // again
		send(Event{RequestType: "Delete"})
		send(update) // after the deletion
		got := s.Secret()
		expect(t, "hand edit", got["GRAFANA_ADMIN_PASSWORD"].(string), "edited-by-hand")
		expect(t, "engine", got["OPENVIDU_RTC_ENGINE"].(string), "mediasoup")
		for key, value := range first {
			if confidential.MatchString(key) && key != "GRAFANA_ADMIN_PASSWORD" && got[key] != value {
				t.Errorf("%s was overwritten", key)
			}
		}
	})
}

// Whoever may invoke a function may write its event.
func TestForgedEventsChangeNothing(t *testing.T) {
	scenario(t, Options{Masters: -1}, nil, func(t testing.TB, s *Stack) {
		const id = "MasterInfoFill"
		first := s.Secret()
		unchanged := func(what string) {
			t.Helper()
			for key, value := range s.Secret() {
				if first[key] != value {
					t.Errorf("%s: %s was overwritten", what, key)
				}
			}
		}
		old := s.with(id, nil)
		settings := maps.Clone(old["Settings"].(map[string]any))
		settings["REDIS_PASSWORD"] = "known-to-me"
		forged := Event{RequestType: "Update", ResourceProperties: s.with(id, map[string]any{"Settings": settings}), OldResourceProperties: old}
		if answer := s.Invoke(id, forged); answer.Status != "FAILED" || !strings.Contains(answer.Reason, "REDIS_PASSWORD is none of the keys") {
			t.Errorf("a credential among the settings: %+v", answer)
		}
		unchanged("a credential among the settings")
		delete(settings, "REDIS_PASSWORD")
		settings["OPENVIDU_RTC_ENGINE"] = "mediasoup"
		s.setStatus("UPDATE_COMPLETE")
		for _, function := range []string{id, "PreflightChecks", "PreflightSlots"} {
			if answer := s.Invoke(function, Event{RequestType: "Create"}); answer.Status != "FAILED" || !strings.Contains(answer.Reason, "The stack is UPDATE_COMPLETE") {
				t.Errorf("%s while nothing is under way: %+v", function, answer)
			}
		}
		if answer := s.Invoke(id, forged); answer.Status != "FAILED" {
			t.Errorf("an update while none is under way: %+v", answer)
		}
		unchanged("an update while none is under way")
	})
}

// Data without its credentials is lost: the secret goes only when volumes and snapshots went.
func TestSecretGoesWithItsData(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		retain   string
		snapshot bool
		goes     bool
	}{"nothing of the data is left": {"false", false, true}, "a snapshot is left": {"false", true, false}, "the volumes are left": {"true", false, false}} {
		t.Run(name, func(t *testing.T) {
			scenario(t, Options{Masters: -1}, map[string]any{"RetainVolumes": c.retain}, func(t testing.TB, s *Stack) {
				if c.snapshot {
					s.Snapshot(1)
				}
				secret := s.attribute("OpenViduSharedInfo", "")
				deletion := s.Delete()
				expect(t, "failed", fmt.Sprint(deletion.Failed), "map[]")
				if !slices.Contains(deletion.Retained, "OpenViduSharedInfo") {
					t.Errorf("CloudFormation retains %v", deletion.Retained)
				}
				about := s.Cloud.call("secretsmanager", "secretsmanager.DescribeSecret", map[string]any{"SecretId": secret})
				expect(t, "whether it is deleted", fmt.Sprint(about["DeletedDate"] != nil), fmt.Sprint(c.goes))
			})
		})
	}
}
