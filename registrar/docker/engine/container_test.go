package engine

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/musterhq/muster/discovery/driver"
)

// A file may have been written by PowerShell, or saved by an editor.
func TestParseInspectOfOtherEncodings(t *testing.T) {
	const text = `[{"Id":"a1","Name":"/größe-😀"}]`
	utf16Of := func(order binary.AppendByteOrder, text string) string {
		var b []byte
		for _, unit := range utf16.Encode([]rune(text)) {
			b = order.AppendUint16(b, unit)
		}
		return string(b)
	}
	for name, encoded := range map[string]string{
		"plain":                                text,
		"UTF-8 with a mark":                    "\xef\xbb\xbf" + text,
		"UTF-8 with a mark and lines":          "\xef\xbb\xbf\r\n" + text + "\r\n",
		"UTF-16, little endian":                utf16Of(binary.LittleEndian, "\ufeff"+text+"\r\n"),
		"UTF-16, big endian":                   utf16Of(binary.BigEndian, "\ufeff"+text),
		"UTF-16, little endian without a mark": utf16Of(binary.LittleEndian, text),
		"UTF-16, big endian without a mark":    utf16Of(binary.BigEndian, "\n"+text),
	} {
		containers, err := ParseInspect([]byte(encoded))
		if err != nil || len(containers) != 1 || containers[0].ShortName() != "größe-😀" {
			t.Errorf("%s: %+v, %v", name, containers, err)
		}
	}
}

// What is no output of docker inspect is reported, and the rest is read.
func TestParseInspectReportsWhatIsNone(t *testing.T) {
	containers, err := ParseInspect([]byte(`[{"Id":"a1"}, null, 5, {"Name":"/x"}]`))
	if len(containers) != 1 || err == nil || len(strings.Split(err.Error(), "\n")) != 3 {
		t.Errorf("ParseInspect: %v, %v; want one container and three errors", containers, err)
	}
	for element, want := range map[string]string{
		`{"Id":"sha256:1","RepoTags":["nginx"],"Config":{"ExposedPorts":{"80/tcp":{}}},"RootFS":{"Type":"layers"}}`: "it is an image, and no container; name one of docker ps, as docker inspect --type container NAME",
		`{"Name":"bridge","Id":"1","IPAM":{"Config":[]}}`:                                                           "it is a network, and no container",
		`{"name":"podman","id":"1","driver":"bridge","subnets":[]}`:                                                 "it is a network, and no container",
		`{"Name":"data","Mountpoint":"/var/lib/docker/volumes/data"}`:                                               "it is a volume, and no container",
		`{"ID":"1","Version":{},"Spec":{"Name":"web"}}`:                                                             "it is an object of a swarm, and no container",
	} {
		containers, err := ParseInspect([]byte(element))
		if err == nil || len(containers) != 0 || !errors.Is(err, driver.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseInspect(%s): %v, %v; want %s", element, containers, err, want)
		}
	}
	for _, none := range []string{"", "\xef\xbb\xbf", "\xff\xfe", "\xfe\xff\x00", "[\x00]", "\x00[\x00", "x", "{}", "[", `"a1"`} {
		if containers, err := ParseInspect([]byte(none)); err == nil || len(containers) != 0 {
			t.Errorf("ParseInspect(%q): %v, %v; want an error", none, containers, err)
		}
	}
}
