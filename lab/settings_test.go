package lab

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
)

func newBucket(name string) string {
	request, err := http.NewRequest(http.MethodPut, moto+"/"+name, nil)
	must(err)
	request.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=OWNER/20260101/"+region+"/s3/aws4_request, SignedHeaders=host, Signature=0")
	response, err := http.DefaultClient.Do(request)
	must(err)
	response.Body.Close()
	return name
}

func TestRecordingsInS3(t *testing.T) {
	t.Parallel()
	env := func(t testing.TB, s *Stack, app, data any) {
		t.Helper()
		ready(t, s, 1)
		checkMaster(t, s, 1)
		want := fmt.Sprintf("EXTERNAL_S3_BUCKET_APP_DATA=%s\nEXTERNAL_S3_BUCKET_CLUSTER_DATA=%s\nEXTERNAL_S3_ENDPOINT=https://s3.%s.amazonaws.com\n"+
			"EXTERNAL_S3_PATH_STYLE_ACCESS=false\nEXTERNAL_S3_REGION=%[3]s", app, data, region)
		expect(t, "settings", s.Machine(Group(1)).Shell("grep EXTERNAL_S3 /opt/openvidu/config/cluster/openvidu.env | sort"), want)
	}
	t.Run("in new buckets, for ever", func(t *testing.T) {
		scenario(t, Options{Masters: 1}, map[string]any{"RecordingsStorage": "S3"}, func(t testing.TB, s *Stack) {
			env(t, s, s.attribute("S3AppData", ""), s.attribute("S3ClusterData", ""))
			if err := s.Update(map[string]any{"RecordingsStorage": "Volumes"}); err == nil || !strings.Contains(err.Error(), "would leave recordings behind") {
				t.Errorf("an update back to volumes: %v", err)
			}
			env(t, s, s.attribute("S3AppData", ""), s.attribute("S3ClusterData", ""))
		})
	})
	t.Run("in buckets that exist", func(t *testing.T) {
		app, data := newBucket("lab-app-data"), newBucket("lab-cluster-data")
		change := map[string]any{"RecordingsStorage": "S3", "S3AppDataBucketName": app, "S3ClusterDataBucketName": data}
		scenario(t, Options{Masters: 1}, change, func(t testing.TB, s *Stack) {
			env(t, s, app, data)
			answer := s.Invoke("PreflightChecks", Event{RequestType: "Create", ResourceProperties: s.with("PreflightChecks", map[string]any{"S3AppDataBucketName": "lab-no-such-bucket"})})
			if answer.Status != "FAILED" || !strings.Contains(answer.Reason, "S3AppDataBucketName: 'lab-no-such-bucket' does not exist") {
				t.Errorf("%+v", answer)
			}
		})
	})
}

func TestFirstPasswordOfMeetAndFlagsReachTheInstaller(t *testing.T) {
	change := map[string]any{"AdditionalInstallFlags": "--force-utc-timezone,--name=a/b:c", "InitialMeetAdminPassword": "a-first-password", "InitialMeetApiKey": "a-first-key"}
	scenario(t, Options{Masters: 1, Media: 1}, change, func(t testing.TB, s *Stack) {
		ready(t, s, 0, 1)
		for _, m := range []*Machine{s.Machine(Group(1)), s.Machine(MediaGroup)} {
			expect(t, "the last flags of "+m.Group, m.Shell("tail -n 2 /etc/lab/installer-flags"), "--force-utc-timezone\n--name=a/b:c")
		}
		m := s.Machine(Group(1))
		expect(t, "flags of OpenVidu Meet", m.Shell("grep -c -e --meet-initial-admin-password=a-first-password -e --meet-initial-api-key=a-first-key /etc/lab/installer-flags"), "2")
		expect(t, "settings of OpenVidu Meet", m.Shell("grep -c -e MEET_INITIAL_ADMIN_PASSWORD=a-first-password -e MEET_INITIAL_API_KEY=a-first-key /opt/openvidu/config/cluster/master_node/meet.env"), "2")
		if err := s.Update(map[string]any{"InitialMeetApiKey": "a-second-key"}); err == nil || !strings.Contains(err.Error(), "InitialMeetApiKey counts at creation only") {
			t.Errorf("a second first key: %v", err)
		}
	})
}

// beforeStart gives the template that the prop BeforeStart with these lines would give, for both kinds of nodes.
func beforeStart(lines string) func(cfn.Template) cfn.Template {
	return func(source cfn.Template) cfn.Template {
		content, err := json.Marshal(source)
		must(err)
		quoted, err := json.Marshal(strings.ReplaceAll(lines, "'", `'\''`))
		must(err)
		const none = `BEFORE_START=''`
		if places := strings.Count(string(content), none); places != 5 { // of each slot's launch template, and of the fleet's
			panic(fmt.Sprint(none, " is there ", places, " times"))
		}
		var template cfn.Template
		must(json.Unmarshal([]byte(strings.ReplaceAll(string(content), none, `BEFORE_START='`+string(quoted[1:len(quoted)-1])+`'`)), &template))
		return template
	}
}

func TestLinesBeforeStart(t *testing.T) {
	t.Parallel()
	// They find what is installed, with the settings of the secret, and OpenVidu not yet running. They may print credentials, and
	// leave a process behind.
	const look = `config=(/opt/openvidu/config/node/*.env)
grep -q REDIS_PASSWORD=. "${config[0]}"
! curl -s http://127.0.0.1:7880/ || exit 9
cat "${config[0]}"
sleep infinity &
echo "it's number 1" >>/root/lines`
	t.Run("run at every boot of every node; a change rolls the masters", func(t *testing.T) {
		scenario(t, Options{Media: 1, Template: beforeStart(look)}, nil, func(t testing.TB, s *Stack) {
			ready(t, s, 0, 1, 2, 3, 4)
			for _, group := range []string{Group(1), MediaGroup} {
				expect(t, "lines of "+group, s.Machine(group).Shell("cat /root/lines"), "it's number 1")
			}
			quiet(t, s, 1, 2, 3, 4)
			reboot(t, s)
			expect(t, "lines after a reboot", s.Machine(Group(1)).Shell("grep -c . /root/lines"), "2")
			media := s.Machine(MediaGroup)
			if err := s.UpdateTemplate(beforeStart(strings.Replace(look, "1\"", "2\"", 1))(source), nil); err != nil {
				t.Fatal(err)
			}
			for slot := 1; slot <= 4; slot++ {
				expect(t, fmt.Sprint("lines of slot ", slot), s.Machine(Group(slot)).Shell("cat /root/lines"), "it's number 2")
			}
			if s.Machine(MediaGroup) != media || media.gone() {
				t.Error("the update replaced a Media Node")
			}
		})
	})
	t.Run("that fail, fail the boot", func(t *testing.T) {
		scenario(t, Options{Masters: 1, Template: beforeStart("echo the key is lost >&2; false; true")}, nil, func(t testing.TB, s *Stack) {
			failure(t, s, "MasterReady", "master-1", "before_start failed", "the key is lost")
			if s.readyOnce() {
				t.Error("the node said that it is ready")
			}
		})
	})
}

func TestNodesBehindNat(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]map[string]any{
		"private masters": {"LoadBalancerSubnets": subnets, "OpenViduMasterNodeSubnets": private},
		"all private": {"LoadBalancerSubnets": subnets, "OpenViduMasterNodeSubnets": private, "OpenViduMediaNodeSubnets": private,
			"TurnDomainName": "turn.example.com"},
	} {
		t.Run(name, func(t *testing.T) {
			if domain, ok := change["TurnDomainName"].(string); ok {
				change["TurnCertificateARN"] = importCertificate(domain)
			}
			// Two masters tell whether they reach each other, by whatever way.
			scenario(t, Options{Masters: 2, Media: 1}, change, func(t testing.TB, s *Stack) {
				ready(t, s, 0, 1, 2)
				for slot := 1; slot <= 4; slot++ {
					if slot <= 2 {
						checkMaster(t, s, slot)
					}
					if ip := fixedIp(s, slot); !within(ip, private[slot-1].(string)) {
						t.Errorf("slot %d has %s", slot, ip)
					}
				}
				answer := s.Invoke("PreflightChecks", Event{RequestType: "Create", ResourceProperties: s.with("PreflightChecks", map[string]any{"LoadBalancerSubnets": []any{""}})})
				if answer.Status != "FAILED" || !strings.Contains(answer.Reason, "OpenViduMasterNodeSubnets: '"+private[0].(string)) {
					t.Errorf("without subnets of the load balancers: %+v", answer)
				}
			})
		})
	}
}
