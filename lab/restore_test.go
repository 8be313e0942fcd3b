package lab

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// A new stack begins with another one's snapshots: as docs/recovery.md has it.
func TestRestoreFromSnapshots(t *testing.T) {
	scenario(t, Options{}, nil, func(t testing.TB, old *Stack) {
		ready(t, old, 1, 2, 3, 4)
		quiet(t, old, 1, 2, 3, 4)
		mark(old, 1, 2, 3, 4)
		old.SetSecret(map[string]any{"GRAFANA_ADMIN_PASSWORD": "edited-by-hand"})
		secret, ips := old.Secret(), masterIps(old)
		content, _ := json.Marshal(secret)
		saved := cloud.call("secretsmanager", "secretsmanager.CreateSecret", map[string]any{"Name": old.name + "-saved", "SecretString": string(content)})["ARN"]
		var snapshots []any
		for slot := 1; slot <= 4; slot++ {
			snapshots = append(snapshots, old.Snapshot(slot))
		}
		checkSecrecy(t, old)
		old.Destroy() // so that its addresses are free

		change := map[string]any{"VolumeSnapshotIds": snapshots, "RestoredSharedInfoArn": saved, "DiskSize": 60}
		s := deployed(t, Options{}, change)
		checkKept(t, s, 1, 2, 3, 4)
		expect(t, "addresses", masterIps(s), ips)
		now := s.Secret()
		for key, value := range secret {
			if confidential.MatchString(key) && now[key] != value {
				t.Errorf("%s of the restored cluster is another one", key)
			}
		}
		checkEverywhere(t, s, "GRAFANA_ADMIN_PASSWORD", "edited-by-hand")
		if size := s.Machine(Group(1)).Shell("df --output=size -BG /opt/openvidu | tail -n 1"); !strings.Contains(size, "60G") {
			t.Errorf("the file system has %s", size)
		}
		swapped := append([]any{snapshots[1], snapshots[0]}, snapshots[2:]...)
		answer := s.Invoke("PreflightChecks", Event{RequestType: "Create", ResourceProperties: s.with("PreflightChecks", map[string]any{"VolumeSnapshotIds": swapped})})
		if answer.Status != "FAILED" || !strings.Contains(answer.Reason, fmt.Sprint("VolumeSnapshotIds: '", snapshots[1])) {
			t.Errorf("snapshots in another order: %+v", answer)
		}
		// What is restored is not replaced by the next update.
		if err := s.Update(map[string]any{"VolumeSnapshotIds": ""}); err == nil || !strings.Contains(err.Error(), "VolumeSnapshotIds") {
			t.Errorf("an update without the snapshots: %v", err)
		}
	})
}
