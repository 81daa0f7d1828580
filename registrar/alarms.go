package registrar

import (
	"time"

	"github.com/musterhq/muster/internal/alarm"
)

// What an operator must know of. The subject of those about one registration is its
// service and its id.
var (
	sessionFails = alarm.Kind{Name: "session_fails", Raised: "session not kept", Cleared: "session kept again"}
	// It may be gone with all registrations, though nobody says so.
	sessionExpired = alarm.Kind{Name: "session_expired", Raised: "session not renewed within its ttl", Cleared: "session renewed or replaced"}
	sessionInPart  = alarm.Kind{Name: "session_renewed_in_part", Raised: "session renewed in part", Cleared: "session renewed as a whole again"}
	providerWarns  = alarm.Kind{Name: "provider_warns", Raised: "something is wrong on the way to the provider", Cleared: "nothing is wrong any more on the way to the provider"}
	notFoundByAll  = alarm.Kind{Name: "not_found_by_all", Raised: "not all readers find what is registered", Cleared: "all readers find what is registered",
		Repeat: time.Second}
	notRegistered = alarm.Kind{Name: "not_registered", Raised: "not registered", Cleared: "no longer unregistered"}
	notRemoved    = alarm.Kind{Name: "not_deregistered", Raised: "not deregistered", Cleared: "no longer to be deregistered"}
	differs       = alarm.Kind{Name: "registration_differs", Raised: "registration missing or changed", Cleared: "registration as it should be"}
	contested     = alarm.Kind{Name: "registration_contested", Raised: "registration contested", Cleared: "registration no longer contested",
		Quiet: contestQuiet}
)

func (k key) subject() string { return k.service + " " + k.id }

// forget drops an entry that nothing is to be done about any more. It wants the lock held.
func (r *Registrar) forget(k key) {
	r.entries.remove(k)
	for _, kind := range []alarm.Kind{notRegistered, notRemoved, differs, contested} {
		r.alarms.Forget(kind, k.subject())
	}
}
