package cron_test

import (
	"errors"
	"slices"
	"testing"
	"time"
	_ "time/tzdata"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/node/cron"
)

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

// fires are the times from one moment to another, both in the zone's own time.
func fires(t *testing.T, expr, where, from, to string) []string {
	t.Helper()
	loc := zone(t, where)
	s, err := cron.Parse(expr, loc)
	if err != nil {
		t.Fatal(err)
	}
	at, err := time.ParseInLocation("2006-01-02 15:04", from, loc)
	if err != nil {
		t.Fatal(err)
	}
	end, err := time.ParseInLocation("2006-01-02 15:04", to, loc)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for at = s.Next(at); at.Before(end) && !at.IsZero(); at = s.Next(at) {
		got = append(got, at.Format("02 15:04 MST"))
		if len(got) > 400 {
			t.Fatalf("%s never ends: %v", expr, got[:10])
		}
	}
	return got
}

// Real zone data: the nights in which the clocks are changed, in three zones, one of which changes
// by half an hour, in the south, and the ordinary ones around them.
func TestDaylightSaving(t *testing.T) {
	for _, c := range []struct {
		name, expr, zone, from, to string
		want                       []string
	}{
		// Berlin: 29 March 2026 02:00 becomes 03:00; 25 October 03:00 becomes 02:00.
		{"spring, in the gap", "30 2 * * *", "Europe/Berlin", "2026-03-28 00:00", "2026-03-31 00:00",
			[]string{"28 02:30 CET", "29 03:00 CEST", "30 02:30 CEST"}},
		{"spring, many in the gap", "*/15 2 * * *", "Europe/Berlin", "2026-03-29 00:00", "2026-03-30 00:00",
			[]string{"29 03:00 CEST"}},
		{"spring, in the gap and at its end", "0,30 2,3 * * *", "Europe/Berlin", "2026-03-29 00:00", "2026-03-30 00:00",
			[]string{"29 03:00 CEST", "29 03:30 CEST"}},
		{"spring, hourly", "0 * * * *", "Europe/Berlin", "2026-03-29 00:30", "2026-03-29 05:00",
			[]string{"29 01:00 CET", "29 03:00 CEST", "29 04:00 CEST"}},
		{"spring, each half hour", "*/30 * * * *", "Europe/Berlin", "2026-03-29 01:00", "2026-03-29 04:00",
			[]string{"29 01:30 CET", "29 03:00 CEST", "29 03:30 CEST"}},
		{"autumn, twice on the clock", "30 2 * * *", "Europe/Berlin", "2026-10-24 00:00", "2026-10-27 00:00",
			[]string{"24 02:30 CEST", "25 02:30 CEST", "26 02:30 CET"}},
		{"autumn, when the clock is set", "0 3 * * *", "Europe/Berlin", "2026-10-25 00:00", "2026-10-26 00:00",
			[]string{"25 03:00 CET"}},
		{"autumn, where it is set to", "0 2 * * *", "Europe/Berlin", "2026-10-25 00:00", "2026-10-26 00:00",
			[]string{"25 02:00 CEST"}},
		{"autumn, hourly", "0 * * * *", "Europe/Berlin", "2026-10-25 00:30", "2026-10-25 05:00",
			[]string{"25 01:00 CEST", "25 02:00 CEST", "25 02:00 CET", "25 03:00 CET", "25 04:00 CET"}},
		{"autumn, many", "*/20 2 * * *", "Europe/Berlin", "2026-10-25 00:00", "2026-10-26 00:00",
			[]string{"25 02:00 CEST", "25 02:20 CEST", "25 02:40 CEST"}},
		// New York: 8 March 2026 02:00 becomes 03:00; 1 November 02:00 becomes 01:00.
		{"spring, weekly", "30 2 * * 0", "America/New_York", "2026-03-01 00:00", "2026-03-16 00:00",
			[]string{"01 02:30 EST", "08 03:00 EDT", "15 02:30 EDT"}},
		{"autumn, monthly", "30 1 1 * *", "America/New_York", "2026-10-01 00:00", "2026-12-02 00:00",
			[]string{"01 01:30 EDT", "01 01:30 EDT", "01 01:30 EST"}},
		{"autumn, each even hour", "0 */2 * * *", "America/New_York", "2026-11-01 00:00", "2026-11-01 06:30",
			[]string{"01 02:00 EST", "01 04:00 EST", "01 06:00 EST"}},
		// Lord Howe: 4 October 2026 02:00 becomes 02:30; 5 April 02:00 becomes 01:30.
		{"spring, half an hour", "15 2 * * *", "Australia/Lord_Howe", "2026-10-03 00:00", "2026-10-06 00:00",
			[]string{"03 02:15 +1030", "04 02:30 +11", "05 02:15 +11"}},
		{"autumn, half an hour", "45 1 * * *", "Australia/Lord_Howe", "2026-04-04 00:00", "2026-04-07 00:00",
			[]string{"04 01:45 +11", "05 01:45 +11", "06 01:45 +1030"}},
		{"autumn, half an hour, hourly", "45 * * * *", "Australia/Lord_Howe", "2026-04-05 00:00", "2026-04-05 03:00",
			[]string{"05 00:45 +11", "05 01:45 +11", "05 01:45 +1030", "05 02:45 +1030"}},
		// Apia: there was no 30 December 2011.
		{"a day that was left out", "0 12 * * *", "Pacific/Apia", "2011-12-29 00:00", "2012-01-01 00:00",
			[]string{"29 12:00 -10", "31 00:00 +14", "31 12:00 +14"}},
		{"leap day", "0 0 29 2 *", "UTC", "2026-01-01 00:00", "2033-01-01 00:00",
			[]string{"29 00:00 UTC", "29 00:00 UTC"}},
		{"either day", "0 0 13 * 5", "UTC", "2026-11-01 00:00", "2026-11-21 00:00",
			[]string{"06 00:00 UTC", "13 00:00 UTC", "20 00:00 UTC"}},
		{"Sunday is 7, too", "0 0 * * 7", "UTC", "2026-11-01 00:00", "2026-11-09 00:00",
			[]string{"08 00:00 UTC"}},
		{"seconds", "15 0 0 * * *", "UTC", "2026-11-01 00:00", "2026-11-02 00:00", []string{"01 00:00 UTC"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := fires(t, c.expr, c.zone, c.from, c.to); !slices.Equal(got, c.want) {
				t.Errorf("%s in %s:\n got %q\nwant %q", c.expr, c.zone, got, c.want)
			}
		})
	}
}

// Whatever the zone and the year, a daily job fires once per date that there is, in order, never
// more than 25 hours apart; and an hourly one never more than an hour and a half.
func TestEveryDayOfManyYears(t *testing.T) {
	for _, where := range []string{"Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Sao_Paulo", "Asia/Tehran", "UTC"} {
		loc := zone(t, where)
		for _, expr := range []string{"0 0 * * *", "30 1 * * *", "30 2 * * *", "59 23 * * *"} {
			s, err := cron.Parse(expr, loc)
			if err != nil {
				t.Fatal(err)
			}
			at := time.Date(2010, 1, 1, 0, 0, 0, 0, loc)
			date := ""
			for at = s.Next(at); at.Year() < 2030; {
				next := s.Next(at)
				if d := at.Format(time.DateOnly); d == date {
					t.Fatalf("%s in %s: twice on %s", expr, where, d)
				} else {
					date = d
				}
				if gap := next.Sub(at); gap < 22*time.Hour || gap > 26*time.Hour {
					t.Fatalf("%s in %s: %v after %v", expr, where, next, at)
				}
				// From anywhere in between, the same one is next.
				if again := s.Next(at.Add(next.Sub(at) / 2)); !again.Equal(next) {
					t.Fatalf("%s in %s: after %v %v or %v", expr, where, at, next, again)
				}
				at = next
			}
		}
		hourly, err := cron.Parse("0 * * * *", loc)
		if err != nil {
			t.Fatal(err)
		}
		for at := hourly.Next(time.Date(2015, 1, 1, 0, 0, 0, 0, loc)); at.Year() < 2020; {
			next := hourly.Next(at)
			if gap := next.Sub(at); gap < 30*time.Minute || gap > 90*time.Minute {
				t.Fatalf("hourly in %s: %v after %v", where, next, at)
			}
			at = next
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, expr := range []string{
		"", "* * * *", "* * * * * * *", "60 * * * *", "* 24 * * *", "TZ=UTC * * * * *", "CRON_TZ=UTC 0 0 * * *",
		"@reboot", "@every", "@every 0s", "@every -1h", "@every x", "a b c d e", "* * 0 * *", "* * * 13 *", "* * * * 8",
	} {
		if s, err := cron.Parse(expr, nil); !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("%q: %v, %v", expr, s, err)
		}
	}
}

func TestNever(t *testing.T) {
	s, err := cron.Parse("0 0 30 2 *", nil)
	if err != nil {
		t.Skip("refused: ", err)
	}
	if at := s.Next(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)); !at.IsZero() {
		t.Errorf("30 February is %v", at)
	}
}

func TestEvery(t *testing.T) {
	at := time.Date(2026, 11, 30, 10, 0, 0, 1, time.UTC)
	if next := cron.Every(time.Hour).Next(at); next.Sub(at) != time.Hour-1 {
		t.Errorf("after %v: %v", at, next)
	}
	if next := cron.Every(time.Hour).Next(at.Add(-1)); !next.Equal(at.Add(time.Hour - 1)) {
		t.Errorf("%v", next)
	}
}

// No expression makes a schedule that panics, goes back or hangs.
func FuzzParse(f *testing.F) {
	for _, expr := range []string{"* * * * *", "*/15 2 * * *", "0 0 29 2 *", "@hourly", "0 0 1-7 * MON#1", "0-59/61 * * * *"} {
		f.Add(expr, int64(1774742400))
	}
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, expr string, unix int64) {
		s, err := cron.Parse(expr, berlin)
		if err != nil {
			return
		}
		at := time.Unix(unix%(1<<33), 0)
		for range 5 {
			next := s.Next(at)
			if next.IsZero() {
				return
			}
			if !next.After(at) {
				t.Fatalf("%q: %v after %v", expr, next, at)
			}
			at = next
		}
	})
}
