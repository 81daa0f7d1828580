package agent

import (
	"strings"
	"testing"

	"github.com/musterhq/muster/config"
	"github.com/musterhq/muster/tlsfiles"
)

// What is wrong is reported by the name under which it was given.
func TestEngineErrorsNameTheirKey(t *testing.T) {
	t.Setenv("DOCKER_HOST", "pigeon")
	for _, tt := range []struct {
		docker config.Docker
		want   string
	}{
		{config.Docker{}, `DOCKER_HOST: "pigeon": is no address of an engine; write unix:///PATH`},
		{config.Docker{Host: "foo"}, `docker.host: "foo": is no address of an engine; write unix:///PATH`},
		{config.Docker{Host: "tcp://a", TLS: tlsfiles.Config{CAFile: "none"}}, `docker.tls.ca_file: "none": cannot be read`},
	} {
		if _, err := OpenEngine(&config.Config{Docker: tt.docker}); err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%v\nwant %s", err, tt.want)
		}
	}
}

func TestDetectors(t *testing.T) {
	for _, tt := range []struct {
		name, env string
		docker    config.Docker
		want      string // in the error
	}{
		{name: "by default"},
		{name: "configured", docker: config.Docker{Host: "tcp://127.0.0.1:2375"}},
		{name: "configured wrongly", docker: config.Docker{Host: "nonsense"}, want: `docker.host: "nonsense": `},
		{name: "an environment that is meant for others", env: "nonsense"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("DOCKER_HOST", tt.env)
			found, closeAll, err := Detectors(&config.Config{Docker: tt.docker})
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Fatalf("%v, want %s", err, tt.want)
				}
				return
			}
			if err != nil || len(found) != 1 || found[0].Name() != "docker" {
				t.Fatalf("%v, %v", found, err)
			}
			if err := closeAll(); err != nil {
				t.Error(err)
			}
		})
	}
}
