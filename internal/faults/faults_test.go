package faults

import (
	"os"
	"testing"

	"github.com/musterhq/muster/internal/netlab"
	"github.com/musterhq/muster/internal/testserver"
)

func TestMain(m *testing.M) { os.Exit(netlab.Main(testserver.Main(m))) }

func TestSmoke(t *testing.T) {
	for _, p := range []string{"static", "etcd", "consul"} {
		t.Run(p, func(t *testing.T) {
			l := New(t, Options{Name: "smoke", Provider: p})
			m := l.Form()
			m.Kill()
			l.Master(l.Others(m), m)
			l.Finish()
		})
	}
}
