// Package mountinfo tells from the mounts of a process in what container it runs.
package mountinfo

import (
	"slices"
	"strings"
)

// mounted are the files that engines put in a container. Nothing else is looked at: the
// socket of an engine, or its directory, may be mounted too, and names others.
var mounted = []string{"/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/run/.containerenv"}

// ContainerIDs reads /proc/self/mountinfo and returns the id that each of the files has
// which engines mount into a container. The fourth field of a line is the path in the file
// system that the mount comes from, the fifth where it is mounted:
//
//	Docker        /var/lib/docker/containers/ID/hostname
//	Podman        /containers/storage/overlay-containers/ID/userdata/hostname
//	nerdctl       /var/lib/nerdctl/1935db59/containers/default/ID/hostname
//
// A pod's files are below sandboxes/ID, and of no container.
func ContainerIDs(mountinfo []byte) []string {
	var ids []string
	for line := range strings.Lines(string(mountinfo)) {
		fields := strings.Fields(line)
		if len(fields) < 5 || !slices.Contains(mounted, fields[4]) {
			continue
		}
		parts := strings.Split(fields[3], "/")
		for n, part := range parts {
			if n == 0 || !IsContainerID(part) {
				continue
			}
			above := parts[:n]
			if slices.ContainsFunc(above, func(dir string) bool { return dir == "containers" || strings.HasSuffix(dir, "-containers") }) {
				ids = append(ids, part)
				break
			}
		}
	}
	return ids
}

// IsContainerID reports whether s is the whole id of a container.
func IsContainerID(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}
