package driver

// Located is implemented by a driver that is configured with addresses, so that they are
// named where it fails.
type Located interface {
	// Addrs returns where the provider is looked for, as configured, without
	// passwords. It does not block.
	Addrs() []string
}
