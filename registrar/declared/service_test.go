package declared

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/discovery/driver"
)

func TestValidate(t *testing.T) {
	good := Service{Name: "db", Address: ":5432"}
	with := func(f func(*Service)) Service {
		s := good
		f(&s)
		return s
	}
	for _, tt := range []struct {
		service Service
		key     string
	}{
		{good, ""},
		{with(func(s *Service) { s.Address = "db.example:5432" }), ""},
		{with(func(s *Service) { s.Address = "[2001:db8::1]:5432" }), ""},
		{with(func(s *Service) { s.Check.HTTP = "/health" }), ""},
		{with(func(s *Service) { s.Check.HTTP = "http://#MYIP:#MYPORT/h" }), ""},
		{with(func(s *Service) { s.Check.GRPC = "$SERVICE_IP:$SERVICE_PORT/orders" }), ""},
		{with(func(s *Service) { s.Check.TCP, s.Check.Interval, s.Check.Rise = "true", time.Second, 2 }), ""},
		{with(func(s *Service) { s.Name = "" }), "name"},
		{with(func(s *Service) { s.Name = "a b" }), "name"},
		{with(func(s *Service) { s.ID = "a/b" }), "id"},
		{with(func(s *Service) { s.Address = "" }), "address"},
		{with(func(s *Service) { s.Address = "5432" }), "address"},
		{with(func(s *Service) { s.Address = ":many" }), "address"},
		{with(func(s *Service) { s.Address = ":0" }), "address"},
		{with(func(s *Service) { s.Address = "0.0.0.0:1" }), "address"},
		{with(func(s *Service) { s.Address = "http://a:1" }), "address"},
		{with(func(s *Service) { s.Tags = []string{"a", ""} }), "tags[1]"},
		{with(func(s *Service) { s.Check.HTTP, s.Check.TCP = "/h", "true" }), "check.tcp"},
		{with(func(s *Service) { s.Check.HTTP = "health" }), "check.http"},
		{with(func(s *Service) { s.Check.HTTPS = "http://a/h" }), "check.https"},
		{with(func(s *Service) { s.Check.TCP = "yes" }), "check.tcp"},
		{with(func(s *Service) { s.Check.Script = []string{""} }), "check.script"},
		{with(func(s *Service) { s.Check.Interval = time.Second }), "check.interval"},
		{with(func(s *Service) { s.Check.TCP, s.Check.Interval = "true", time.Millisecond }), "check.interval"},
		{with(func(s *Service) { s.Check.TCP, s.Check.Timeout = "true", -1 }), "check.timeout"},
		{with(func(s *Service) { s.Check.TCP, s.Check.Fall = "true", -1 }), "check.fall"},
	} {
		errs := tt.service.Validate()
		var keys []string
		for _, err := range errs {
			var bad *driver.ConfigError
			if !errors.As(err, &bad) {
				t.Fatalf("%v is no ConfigError", err)
			}
			keys = append(keys, bad.Key)
		}
		if got := strings.Join(keys, " "); got != tt.key {
			t.Errorf("%+v: %q is wrong, want %q (%v)", tt.service, got, tt.key, errs)
		}
	}
}

func TestInstance(t *testing.T) {
	for _, tt := range []struct {
		service  Service
		id, addr string
	}{
		{Service{Name: "db", Address: ":5432"}, "host1:db:5432", "10.0.0.5:5432"},
		{Service{Name: "db", ID: "main", Address: "db.example:5432"}, "main", "db.example:5432"},
	} {
		i := tt.service.Instance("host1", "10.0.0.5")
		if i.InstanceID != tt.id || i.Addr != tt.addr || i.Validate() != nil {
			t.Errorf("%+v: %+v", tt.service, i)
		}
	}
	if i := (Service{Name: "db", Address: ":5432"}).Instance("host1", "2001:db8::1"); i.Addr != "[2001:db8::1]:5432" {
		t.Errorf("%+v", i)
	}
}
