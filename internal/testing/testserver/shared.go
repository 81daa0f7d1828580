package testserver

import (
	"sync"
	"testing"
)

// shared are the servers that all tests of a process use, together or in turn.
var shared struct {
	sync.Mutex
	etcd   *Etcd
	consul *Consul
	lent   []*Consul // by LendConsul, to nobody now, the one that has rested longest first
}

// noTest stands where a server belongs to no test. Its methods panic.
type noTest struct{ testing.TB }

func (noTest) Helper() {}

// Main wraps the *testing.M of a TestMain and stops the shared servers after the
// tests, so that a check for leaked goroutines finds none of theirs:
//
//	func TestMain(m *testing.M) { goleak.VerifyTestMain(testserver.Main(m)) }
func Main(m interface{ Run() int }) interface{ Run() int } { return main{m} }

type main struct{ m interface{ Run() int } }

func (m main) Run() int {
	code := m.m.Run()
	shared.Lock()
	defer shared.Unlock()
	if shared.etcd != nil {
		shared.etcd.close()
		shared.etcd = nil
	}
	if shared.consul != nil {
		shared.consul.close()
		shared.consul = nil
	}
	for _, c := range shared.lent {
		c.close()
	}
	shared.lent = nil
	return code
}
