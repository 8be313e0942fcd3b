package lab

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/openvidu-ha/openvidu-ha/internal/cfn"
)

func TestLogsOutliveTheirNodes(t *testing.T) {
	t.Parallel()
	for _, distribution := range []Distribution{AmazonLinux, Ubuntu24} {
		t.Run(string(distribution), func(t *testing.T) {
			scenario(t, Options{Distribution: distribution, Masters: 1, Media: 1}, nil, func(t testing.TB, s *Stack) {
				ready(t, s, 0, 1)
				master, media := s.Machine(Group(1)), s.Machine(MediaGroup)
				boot := "master-1/" + master.Id + "/boot"
				eventually(t, "the whole log of the boot", func() bool {
					text := streams(s)[boot]
					return strings.Contains(text, "== identify") && strings.Contains(text, "== signal")
				})
				// No line twice, none left out.
				quiet(t, s, 1)
				lines := func(text string) string {
					return strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' }), "\n")
				}
				eventually(t, "the log as it stands on the node", func() bool { return lines(streams(s)[boot]) == lines(master.Log()) })
				errors := func() (text string) {
					for name, messages := range streams(s) {
						if strings.HasPrefix(name, "media-node/"+media.Id+"/errors") {
							text += messages
						}
					}
					return text
				}
				eventually(t, "the errors of OpenVidu", func() bool { return strings.Contains(errors(), "no such room") })
				if text := errors(); strings.Contains(text, "starting") || strings.Contains(text, "aBcD1234") {
					t.Errorf("what is no error, or tells a password, was sent: %s", text)
				}
				// OpenVidu 3.9 collects the errors of the whole cluster on masters.
				master.Shell("mkdir -p /var/log/openvidu; echo 'media-node-1 lost its disk' >>/var/log/openvidu/nodes_errors.log; echo 'mongodb://admin:aBcD1234@10.0.0.1/ refused' >>/var/log/openvidu/nodes_errors.log")
				const collected = "/nodes_errors"
				eventually(t, "the errors that OpenVidu collected", func() bool {
					return streams(s)["master-1/"+master.Id+collected] == "media-node-1 lost its disk\n"
				})
				s.Kill(Group(1), nil)
				ready(t, s, 1)
				if !strings.Contains(streams(s)[boot], "== healthy") {
					t.Error("the log went with its node")
				}
				// By the cluster alone, as the alarm asks for it.
				eventually(t, "how full the disks are", func() bool {
					s.mu.Lock()
					defer s.mu.Unlock()
					return slices.ContainsFunc(s.metrics["disk_used_percent"], func(datum any) bool {
						return fmt.Sprint(cfn.At(datum, "Dimensions")) == "[map[Name:Cluster Value:"+s.id+"/Master]]"
					})
				})
			})
		})
	}
}

func TestNodesWithoutAgentWork(t *testing.T) {
	t.Parallel()
	for _, distribution := range []Distribution{AmazonLinux, Ubuntu24} {
		t.Run(string(distribution), func(t *testing.T) {
			scenario(t, Options{Distribution: distribution, Masters: 1, Media: 1, Files: map[string]string{"etc/lab/no-agent": ""}, Outages: map[string]int{agentHost: 404}}, nil, func(t testing.TB, s *Stack) {
				ready(t, s, 0, 1)
				for _, m := range []*Machine{s.Machine(Group(1)), s.Machine(MediaGroup)} {
					if !strings.Contains(m.Log(), "WARNING: no CloudWatch agent") {
						t.Errorf("%s does not say so:\n%s", m.Group, m.Log())
					}
				}
			})
		})
	}
}
