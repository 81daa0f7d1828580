package history

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

const (
	// maxLine bounds a line: a view of some thousand members.
	maxLine = 4 << 20
	// maxNamed bounds how many unreadable lines are named.
	maxNamed = 10
)

// Unreadable is what a Scanner could not read.
type Unreadable struct {
	// Torn counts the beginnings of records, as a full disk or the end of the process leaves them.
	// They are normal.
	Torn int
	// Lines counts the other lines that are no record of this version, and Named has the first ten
	// of them, each with its number and what is wrong.
	Lines int
	Named []error
}

// Err names the lines that are neither a record nor the torn beginning of one, nil if there are
// none.
func (u Unreadable) Err() error {
	errs := u.Named
	if more := u.Lines - len(u.Named); more > 0 {
		errs = append(errs[:len(errs):len(errs)], fmt.Errorf("and %d more lines", more))
	}
	return errors.Join(errs...)
}

// Scanner reads records one by one, in memory that is bounded by the longest line, which is 4 MiB.
type Scanner struct {
	r      *bufio.Reader
	line   []byte
	number int
	record Record
	bad    Unreadable
	err    error
}

// NewScanner returns a Scanner of what r has.
func NewScanner(r io.Reader) *Scanner { return &Scanner{r: bufio.NewReaderSize(r, 64<<10)} }

// Scan goes on to the next record, and reports false at the end and where reading fails. Lines that
// are no records are skipped: see [Scanner.Unreadable].
func (s *Scanner) Scan() bool {
	for s.err == nil {
		long := s.readLine()
		line := bytes.TrimSpace(s.line)
		if len(line) == 0 && !long {
			continue
		}
		s.record = Record{}
		var err error
		if !long {
			err = json.Unmarshal(line, &s.record)
		}
		switch {
		case long:
			s.skip(fmt.Errorf("longer than %d bytes", maxLine))
		case err != nil && line[0] == '{' && line[len(line)-1] != '}':
			s.bad.Torn++
		case err != nil:
			s.skip(fmt.Errorf("no record of a history: %w", err))
		case s.record.Version != Version:
			s.skip(fmt.Errorf("version %d of the layout; this is version %d", s.record.Version, Version))
		case s.record.N == 0: // whether one is missing, or there twice, nobody could tell
			s.skip(errors.New("a record without its number, n"))
		default:
			return true
		}
	}
	return false
}

// readLine reads a line, of which nothing is kept if it is too long.
func (s *Scanner) readLine() (long bool) {
	s.line = s.line[:0]
	s.number++
	for {
		part, err := s.r.ReadSlice('\n')
		if long = long || len(s.line)+len(part) > maxLine; long {
			s.line = s.line[:0]
		} else {
			s.line = append(s.line, part...)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			s.err = err
			return long
		}
	}
}

func (s *Scanner) skip(err error) {
	s.bad.Lines++
	if len(s.bad.Named) < maxNamed {
		s.bad.Named = append(s.bad.Named, fmt.Errorf("line %d: %w", s.number, err))
	}
}

// Record returns the record that Scan has read. It shares nothing with the next one.
func (s *Scanner) Record() Record { return s.record }

// Unreadable returns what was skipped so far.
func (s *Scanner) Unreadable() Unreadable { return s.bad }

// Err returns why reading has ended before the end.
func (s *Scanner) Err() error {
	if errors.Is(s.err, io.EOF) {
		return nil
	}
	return s.err
}

// Read reads all records. Of a line that a full disk or the end of the process has
// torn nothing is left; the error names lines that are neither a record nor the
// torn beginning of one, and the other records are returned nevertheless.
func Read(r io.Reader) ([]Record, error) {
	var records []Record
	s := NewScanner(r)
	for s.Scan() {
		records = append(records, s.Record())
	}
	return records, errors.Join(s.Unreadable().Err(), s.Err())
}
