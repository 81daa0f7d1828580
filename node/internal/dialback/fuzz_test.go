package dialback

import (
	"bufio"
	"encoding/json"
	"net"
	"testing"
)

// FuzzQuestion holds that whatever is asked gets one line of answer, which is never that
// somebody was reached, or the end of the connection.
func FuzzQuestion(f *testing.F) {
	f.Add([]byte(`{"v":1,"op":"reach","instance":"i1"}` + "\n"))
	f.Add([]byte(`{"v":1,"op":"who"}` + "\n"))
	f.Add([]byte("{\"v\":2}\n"))
	f.Add([]byte("null\n"))
	f.Add([]byte("\n\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		s := &Server{
			Find: func(string) (Member, bool) { return Member{}, false },
		}
		ours, theirs := net.Pipe()
		served, wrote := make(chan struct{}), make(chan struct{})
		go func() { defer close(served); s.serve(t.Context(), theirs) }()
		go func() { defer close(wrote); _, _ = ours.Write(append(in, "\n\n"...)) }()
		for lines := bufio.NewScanner(ours); lines.Scan(); {
			var r reply
			if err := json.Unmarshal(lines.Bytes(), &r); err != nil || r.Version != version {
				t.Errorf("%q is answered with %q", in, lines.Text())
			}
			if r.Outcome == reached || r.Outcome == failed || len(lines.Bytes()) > maxLine {
				t.Errorf("%q is answered with %q, and there is nobody to reach", in, lines.Text())
			}
		}
		_ = ours.Close()
		<-wrote
		<-served
	})
}
