package call_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"github.com/musterhq/muster/internal/testing/wait"
	"github.com/musterhq/muster/node/call"
	"github.com/musterhq/muster/node/nodetest"
)

func TestStats(t *testing.T) {
	t.Parallel()
	a := start(t, nodetest.Alone(t))
	to := a.Mesh.Node(a.ID())
	who(t.Context(), to)
	who(t.Context(), to)
	who(t.Context(), a.Mesh.Node("nobody"))
	call.Invoke[string](t.Context(), to, "fail", codes.NotFound)
	call.Invoke[string](t.Context(), to, "unknown", 1)
	count := func(all []call.MethodStats) map[string]uint64 {
		got := make(map[string]uint64)
		for _, s := range all {
			got[s.Method+" "+s.Result] = s.Calls
			if s.Took <= 0 && s.Result == "ok" {
				t.Errorf("%+v took no time", s)
			}
		}
		return got
	}
	wait.For(t, "the last handler has returned", func() bool { return a.Stats().Running == 0 })
	s := a.Stats()
	want := map[string]uint64{"/who/JSON ok": 2, "/who/JSON left": 1, "/fail/JSON error": 1, "/unknown/JSON no_handler": 1}
	if diff := cmp.Diff(want, count(s.Made)); diff != "" {
		t.Errorf("made: -want +got:\n%s", diff)
	}
	delete(want, "/who/JSON left")
	if diff := cmp.Diff(want, count(s.Served)); diff != "" {
		t.Errorf("served: -want +got:\n%s", diff)
	}
	if s.Pending != 0 {
		t.Errorf("%d pending", s.Pending)
	}
}

// The services of gRPC that tools ask work as they do on any server, and are not announced.
func TestHealthAndReflection(t *testing.T) {
	t.Parallel()
	a := start(t, nodetest.Alone(t), func(m *call.Mesh) {
		grpc_health_v1.RegisterHealthServer(m, health.NewServer())
		reflection.Register(m)
	})
	r, err := grpc_health_v1.NewHealthClient(a.Mesh.Node(a.ID())).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if err != nil || r.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("%v, %v", r, err)
	}
	if _, ok := a.GetServiceInfo()["grpc.reflection.v1.ServerReflection"]; !ok {
		t.Error("no reflection")
	}
	for _, tag := range a.View().Self().Tags {
		if tag == "call:grpc.health.v1.Health" {
			t.Error("the service of health is announced")
		}
	}
}
