package memory_test

import (
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/musterhq/muster/discovery/discoverytest"
	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/discovery/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func memoryHarness(testing.TB) discoverytest.Harness {
	m := memory.New()
	garbage := 0
	return discoverytest.Harness{
		Open: func(testing.TB) driver.Driver { return m.Driver() },
		OpenFaulty: func(testing.TB) (driver.Driver, discoverytest.Faults) {
			d, w := m.FaultyDriver()
			return d, discoverytest.Faults{Hold: w.Hold, Lose: w.Lose, Restore: w.Restore}
		},
		EndGrant: func(_ testing.TB, cluster string) { m.EndMastership(cluster) },
		OpenDenied: func(testing.TB) driver.Driver {
			closed := memory.New()
			closed.Fail(driver.ErrDenied)
			return closed.Driver()
		},
		AddGarbage: func(_ testing.TB, service string) {
			garbage++
			m.AddGarbage(service, fmt.Sprint("garbage-", garbage))
		},
		Dump:               func(testing.TB) map[string]string { return m.Dump() },
		RemoveRegistration: func(_ testing.TB, i driver.Instance) { m.Remove(i) },
		ExpireSession:      func(_ testing.TB, s driver.Session) { m.ExpireSession(s) },
		Stop: func(testing.TB) {
			m.Fail(fmt.Errorf("%w: stopped by the harness", driver.ErrUnavailable))
		},
		Start:      func(testing.TB) { m.Fail(nil) },
		Delay:      func(_ testing.TB, d time.Duration) { m.Delay(d) },
		Compact:    func(testing.TB) { m.Compact() },
		SessionTTL: time.Second,
		GrantTTL:   time.Second,
	}
}

func TestConforms(t *testing.T) { discoverytest.Run(t, memoryHarness) }

func BenchmarkMemory(b *testing.B) {
	b.Run("RegisterToWatch", func(b *testing.B) { discoverytest.BenchmarkRegisterToWatch(b, memoryHarness) })
	b.Run("List", func(b *testing.B) { discoverytest.BenchmarkList(b, memoryHarness) })
}
