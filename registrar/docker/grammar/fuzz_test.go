package grammar

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/musterhq/muster/registrar/docker/engine"
	"github.com/musterhq/muster/registrar/docker/internal/binding"
)

// FuzzServices holds that whatever an engine says of containers, what comes of it can be
// registered, each under an id of its own, and the rest is reported.
func FuzzServices(f *testing.F) {
	f.Add([]byte(`[{"Id":"a1","Name":"/web","Config":{"Image":"x@sha256:1","Env":["SERVICE_80_tcp_TAGS=a\\,b,c"],"ExposedPorts":{"80/tcp":{}}},
		"NetworkSettings":{"Ports":{"80/tcp":[{"HostIp":"::","HostPort":8000},{"HostIp":"","HostPort":"1"}],"81":null}}}, null]`))
	f.Add([]byte(`{"Id":"a1","HostConfig":{"NetworkMode":"container:a1"},"State":{"Health":{"Status":"starting"}}}`))
	for _, c := range []engine.Container{redis, two(env("SERVICE_ID=x", "SERVICE_1-90_NAME=y")), web(in("host")), web(in("net", "net=10.0.0.1"))} {
		seed, err := json.Marshal(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seed)
	}
	rules := []Rules{
		agent(), noIP(), {Hostname: "hostname"},
		{Hostname: "hostname", Internal: true, MergeTags: true, Tags: []string{"{{ sIndex 0 .Config.Env }}"}},
		{Hostname: "hostname", HostIP: testHost, Explicit: true, IPFromLabel: "ip"},
	}
	f.Fuzz(func(t *testing.T, inspect []byte) {
		containers, err := engine.ParseInspect(inspect)
		if err == nil && len(containers) == 0 && !strings.HasPrefix(strings.TrimSpace(string(inspect)), "[") {
			t.Error("neither a container nor an error")
		}
		for _, c := range containers {
			for _, r := range rules {
				services, problems := r.Services(c, among(containers...))
				if len(services) == 0 && len(problems) == 0 {
					t.Errorf("of %+v nothing is registered, and nothing is reported", c)
				}
				ids := make(map[string]bool)
				for _, s := range services {
					if err := s.Instance("node").Validate(); err != nil || ids[s.ID] || s.Tags == nil || s.Attrs == nil {
						t.Errorf("%+v: %v, its id is taken: %t", s, err, ids[s.ID])
					}
					ids[s.ID] = true
				}
				for _, err := range problems {
					if err.Error() == "" {
						t.Error("an empty problem")
					}
				}
			}
		}
	})
}

// FuzzSettings holds what registrator's grammar is built on: a port's own setting
// beats one for all, and tags survive.
func FuzzSettings(f *testing.F) {
	f.Add("NAME", "web", "db")
	f.Add("TAGS", `a\,b,c`, ",,")
	f.Add("10-20_X", "", "=")
	f.Fuzz(func(t *testing.T, key, forAll, forPort string) {
		if !utf8.ValidString(key) || strings.ContainsAny(key, "=") {
			t.Skip()
		}
		c := run("x", "x", publish("80/tcp", "80"), labels(), env("SERVICE_80_"+key+"="+forPort, "SERVICE_"+key+"="+forAll))
		ignore := func(error) {}
		p := binding.Port{Number: 80, Protocol: "tcp"}
		all := parseSettings(c, ignore)
		for key, s := range all.of(p) {
			if key == "" || key != s.key {
				t.Errorf("setting %+v has key %q", s, key)
			}
		}
		if own, ok, err := parseSetting("SERVICE_80_" + key); ok && err == nil && own.width == 1 {
			if s, found := all.of(p)[own.key]; !found || s.value != forPort {
				t.Errorf("%s of the port is %+v; want %q", own.key, s, forPort)
			}
		}
		for _, tag := range SplitTags(forAll) {
			if tag == "" || strings.TrimSpace(tag) != tag {
				t.Errorf("tag %q of %q", tag, forAll)
			}
			if again := SplitTags(strings.ReplaceAll(tag, ",", `\,`)); len(again) != 1 || again[0] != tag {
				t.Errorf("tag %q is %q when it is written again", tag, again)
			}
		}
		if _, errs := parseTags("tags", []string{forAll}); len(errs) > 0 && !strings.Contains(forAll, "{{") {
			t.Errorf("%q: %v", forAll, errs)
		}
	})
}
