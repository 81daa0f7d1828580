package mountinfo

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	idA = "a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1"
	idB = "cb567baf0049e14b041badc1f4451eb57f00091ab477ed78faa6431f3db699da"
)

func TestContainerIDs(t *testing.T) {
	for _, tc := range []struct {
		name, mountinfo string
		want            []string
	}{
		{"docker 20.10, cgroup v1", `71 46 0:39 / / rw,nodev,noatime master:3 - fuse.fuse-overlayfs fuse-overlayfs rw,user_id=0
77 76 0:29 /docker/` + idB + ` /sys/fs/cgroup/cpu ro,nosuid - cgroup cgroup rw,cpu
87 73 0:46 / /dev/shm rw,nosuid,nodev,noexec,relatime - tmpfs shm rw,size=65536k
88 71 254:0 /var/lib/docker/containers/` + idA + `/resolv.conf /etc/resolv.conf rw,relatime - ext4 /dev/vda rw
89 71 254:0 /var/lib/docker/containers/` + idA + `/hostname /etc/hostname rw,relatime - ext4 /dev/vda rw
90 71 254:0 /var/lib/docker/containers/` + idA + `/hosts /etc/hosts rw,relatime - ext4 /dev/vda rw`, []string{idA, idA, idA}},
		{"docker, its data on a disk of its own", `900 880 8:17 /containers/` + idA + `/hostname /etc/hostname rw,relatime - xfs /dev/sdb1 rw`, []string{idA}},
		{"docker with user namespaces", `900 880 8:1 /var/lib/docker/165536.165536/containers/` + idA + `/hosts /etc/hosts rw,relatime - ext4 /dev/sda1 rw`, []string{idA}},
		{"docker desktop", `1150 1130 254:1 /docker/containers/` + idA + `/resolv.conf /etc/resolv.conf rw,relatime - ext4 /dev/vda1 rw`, []string{idA}},
		{"docker from a snap, with a space", `1 1 7:1 /var/snap/docker/my\040disk/containers/` + idA + `/hostname /etc/hostname rw - ext4 /dev/sda1 rw`, []string{idA}},
		{"rootless docker", `800 790 0:55 /user/.local/share/docker/containers/` + idA + `/hostname /etc/hostname rw - btrfs /dev/sda2 rw`, []string{idA}},
		{"podman", `700 690 0:24 /containers/storage/overlay-containers/` + idA + `/userdata/hostname /etc/hostname rw,nosuid,nodev - tmpfs tmpfs rw
701 690 0:24 /containers/storage/overlay-containers/` + idA + `/userdata/.containerenv /run/.containerenv rw - tmpfs tmpfs rw`, []string{idA, idA}},
		{"rootless podman", `700 690 0:50 /containers/vfs-containers/` + idA + `/userdata/resolv.conf /etc/resolv.conf rw - tmpfs tmpfs rw,uid=1000`, []string{idA}},
		{"nerdctl", `600 590 8:1 /var/lib/nerdctl/1935db59/containers/default/` + idA + `/resolv.conf /etc/resolv.conf rw - ext4 /dev/sda1 rw`, []string{idA}},
		{"a pod of containerd", `500 490 8:1 /var/lib/containerd/io.containerd.grpc.v1.cri/sandboxes/` + idA + `/hostname /etc/hostname rw - ext4 /dev/sda1 rw
501 490 8:1 /var/lib/kubelet/pods/6c1a2c0a-1d0f-4b1e-8b1e-0a4dd0ad0e0c/etc-hosts /etc/hosts rw - ext4 /dev/sda1 rw`, nil},
		{"the files of other containers, mounted by a collector of logs", `1 1 8:1 /var/lib/docker/containers /var/lib/docker/containers ro - ext4 /dev/sda1 rw
2 1 8:1 /var/lib/docker/containers/` + idB + `/` + idB + `-json.log /log ro - ext4 /dev/sda1 rw`, nil},
		{"an engine within this container", `1 1 0:9 / /var/lib/docker/containers/` + idB + `/mounts/shm rw - tmpfs shm rw`, nil},
		{"a host", `22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:24 /resolvconf/resolv.conf /etc/resolv.conf rw - tmpfs tmpfs rw`, nil},
		{"no mountinfo", "\x00\x01 nothing of the kind\n\n1 2 3", nil},
	} {
		if d := cmp.Diff(tc.want, ContainerIDs([]byte(tc.mountinfo))); d != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, d)
		}
	}
}
