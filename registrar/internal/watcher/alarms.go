package watcher

import (
	"time"

	"github.com/musterhq/muster/internal/alarm"
)

// What an operator must know of. The subject of those about one container is its id.
var (
	engineFails = alarm.Kind{Name: "engine_fails", Raised: "container engine not followed", Cleared: "container engine followed again",
		Repeat: time.Second}
	containerWrong  = alarm.Kind{Name: "container_not_as_asked", Raised: "container not registered as it asks to be", Cleared: "container registered as it asks to be"}
	inspectionFails = alarm.Kind{Name: "inspection_fails", Raised: "container not inspected", Cleared: "container inspected again"}
)
