package consul

import (
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/testing/providertest"
	"github.com/musterhq/muster/internal/testing/testserver"
)

// Beside a bare registration and blocking query on the same agent. Between the turns
// there is time for a watch that is not in the midst of a burst.
func BenchmarkRegisterToVisible(b *testing.B) {
	server := testserver.StartConsul(b)
	client := server.Client()
	config := Config{Address: server.Addr()}
	providertest.RegisterToVisible(b, open(b, config), open(b, config), func(n int) (time.Duration, driver.Instance) {
		_, meta, err := client.Health().Service("bare", "", false, nil)
		if err != nil {
			b.Fatal(err)
		}
		answered, done := make(chan error, 1), make(chan error, 1)
		go func() {
			entries, _, err := client.Health().Service("bare", "", false, &api.QueryOptions{WaitIndex: meta.LastIndex})
			if err == nil && len(entries) == 0 {
				err = fmt.Errorf("an answer without the service")
			}
			answered <- err
		}()
		<-time.After(quiet + longestPause)
		start := time.Now()
		go func() {
			done <- client.Agent().ServiceRegister(&api.AgentServiceRegistration{
				ID: fmt.Sprint("bare-", n), Name: "bare", Address: "10.0.0.5", Port: 7946,
				Check: &api.AgentServiceCheck{TTL: "10m", Status: api.HealthPassing},
			})
		}()
		if err := <-answered; err != nil {
			b.Fatal(err)
		}
		took := time.Since(start)
		if err := <-done; err != nil {
			b.Fatal(err)
		}
		return took, driver.Instance{Service: "bench", NodeID: "node-1", InstanceID: fmt.Sprintf("%032x", n), Addr: "10.0.0.5:7946", Version: fmt.Sprint(n)}
	})
}
