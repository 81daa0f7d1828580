package httpapi

// Proxy is a port of the agent that follows the master.
type Proxy struct {
	// Listen is the address of the port, To what is forwarded to, which is master, and App the name
	// of its application address.
	Listen string `json:"listen"`
	To     string `json:"to"`
	App    string `json:"app"`
	// Master is the node id of the one that is forwarded to, in Term, and Addr the address of its
	// application; missing while there is none.
	Master string `json:"master,omitempty"`
	Term   uint64 `json:"term,omitempty"`
	Addr   string `json:"addr,omitempty"`
	// Connections are those of clients that are open, those that wait for a master among them, and
	// MaxConnections how many there may be.
	Connections    int `json:"connections"`
	MaxConnections int `json:"max_connections"`
	// Accepted counts the connections of clients, and Forwarded those that reached a master.
	Accepted  uint64 `json:"accepted"`
	Forwarded uint64 `json:"forwarded"`
	// Refused counts those that were reset, by reason: full, no_master, no_address, dial_failed.
	Refused map[string]uint64 `json:"refused"`
	// SentBytes and ReceivedBytes went to the masters and came from them.
	SentBytes     uint64 `json:"sent_bytes"`
	ReceivedBytes uint64 `json:"received_bytes"`
}

func (o Options) proxies() []Proxy {
	if o.Proxies == nil {
		return nil
	}
	return o.Proxies()
}
