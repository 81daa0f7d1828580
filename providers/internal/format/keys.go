package format

import (
	"slices"
	"sync"

	"github.com/musterhq/muster/discovery/driver"
)

// Keys are those under which a session has put its instances, or may have: a call
// whose answer was lost counts. Where a key follows from the address, an instance
// that moved has a former one, which is to be removed unless another instance of
// the session has moved there.
//
// The zero value is empty and ready. It is safe for concurrent use.
type Keys struct {
	mu     sync.Mutex
	owners map[string]name // by key, the instance that was put there last
}

// name is what an instance keeps when it moves.
type name struct{ service, id string }

func nameOf(i driver.Instance) name { return name{i.Service, i.Key()} }

// Add notes that i is about to be put under key.
func (k *Keys) Add(i driver.Instance, key string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.owners == nil {
		k.owners = make(map[string]name)
	}
	k.owners[key] = nameOf(i)
}

// Former returns the keys to be removed now that i is under key, sorted.
func (k *Keys) Former(i driver.Instance, key string) []string {
	return slices.DeleteFunc(k.Last(i, key), func(other string) bool { return other == key })
}

// Last returns the keys to be removed when i goes, sorted. The key under which it
// would be put, if there is one, is among them even if it was not added.
func (k *Keys) Last(i driver.Instance, key string) []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var keys []string
	for other, owner := range k.owners {
		if owner == nameOf(i) {
			keys = append(keys, other)
		}
	}
	if _, owned := k.owners[key]; !owned && key != "" {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// Remove notes that nothing of this session is under key any more.
func (k *Keys) Remove(key string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.owners, key)
}
