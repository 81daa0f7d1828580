package host

import (
	"time"

	"github.com/musterhq/muster/internal/alarm"
)

// What an operator must know of.
var (
	hostAddressUnknown = alarm.Kind{Name: "host_address_unknown", Raised: "address of this host not known", Cleared: "address of this host known"}
	notAll             = alarm.Kind{Name: "not_all_registered", Raised: "not all is registered", Cleared: "nothing is left out any more",
		Repeat: time.Second}
	cleanupFails = alarm.Kind{Name: "cleanup_fails", Raised: "cleanup fails", Cleared: "cleanup works again"}
	reclaimFails = alarm.Kind{Name: "reclaim_fails", Raised: "reclaim fails", Cleared: "reclaim works again"}
	// What was taken away came back: somebody else keeps it registered.
	keptByOthers = alarm.Kind{Name: "kept_by_others", Raised: "registration kept by others", Cleared: "registration gone or this host's own again"}
)

func keptSubject(o *target, key [2]string) string {
	return o.registry.Name() + " " + key[0] + " " + key[1]
}
