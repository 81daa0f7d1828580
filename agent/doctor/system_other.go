//go:build !linux && !darwin

package doctor

func descriptors() (most uint64, known bool) { return 0, false }

func freeSpace(string) (bytes uint64, known bool) { return 0, false }
