package dialback

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
)

// Protocol is the name on the one port.
const Protocol = "dialback"

const (
	version = 1
	maxLine = 4 << 10

	opReach = "reach"
)

type question struct {
	Version  int    `json:"v"`
	Op       string `json:"op"`
	Instance string `json:"instance,omitempty"`
}

// The outcomes of reaching for a member.
const (
	reached  = "reached"
	failed   = "failed"
	declined = "declined"
)

type reply struct {
	Version int    `json:"v"`
	Outcome string `json:"outcome,omitempty"`
	Addr    string `json:"addr,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Hint    string `json:"hint,omitempty"`
}

var errLine = errors.New("not a message of this protocol")

func write(c net.Conn, message any) error {
	b, err := json.Marshal(message)
	if err != nil {
		return err
	}
	_, err = c.Write(append(b, '\n'))
	return err
}

func read(c net.Conn, message any) error {
	line, err := bufio.NewReaderSize(io.LimitReader(c, maxLine), maxLine).ReadSlice('\n')
	if err != nil {
		return fmt.Errorf("%w: %w", errLine, err)
	}
	if err := json.Unmarshal(line, message); err != nil {
		return fmt.Errorf("%w: %w", errLine, err)
	}
	return nil
}

// exchange puts one question on c, which it closes.
func exchange(c net.Conn, q question) (reply, error) {
	defer c.Close()
	if err := write(c, q); err != nil {
		return reply{}, err
	}
	var r reply
	if err := read(c, &r); err != nil {
		return reply{}, err
	}
	if r.Version != version {
		return reply{}, fmt.Errorf("%w: version %d", errLine, r.Version)
	}
	return r, nil
}
