package format

import (
	"maps"
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
	owners map[string]name          // by key, the instance that was put there last
	keys   map[name]map[string]bool // the same by instance
}

// name is what an instance keeps when it moves.
type name struct{ service, id string }

func nameOf(i driver.Instance) name { return name{i.Service, i.Key()} }

// Add notes that i is about to be put under key.
func (k *Keys) Add(i driver.Instance, key string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.owners == nil {
		k.owners, k.keys = make(map[string]name), make(map[name]map[string]bool)
	}
	k.remove(key)
	owner := nameOf(i)
	k.owners[key] = owner
	if k.keys[owner] == nil {
		k.keys[owner] = make(map[string]bool)
	}
	k.keys[owner][key] = true
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
	keys := slices.Collect(maps.Keys(k.keys[nameOf(i)]))
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
	k.remove(key)
}

func (k *Keys) remove(key string) {
	owner, ok := k.owners[key]
	if !ok {
		return
	}
	delete(k.owners, key)
	delete(k.keys[owner], key)
	if len(k.keys[owner]) == 0 {
		delete(k.keys, owner)
	}
}
