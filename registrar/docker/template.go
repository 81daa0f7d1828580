package docker

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"text/template"

	"github.com/musterhq/muster/discovery/driver"
)

// tagTemplate is one of Rules.Tags.
type tagTemplate struct {
	text     string
	compiled *template.Template
}

// parseTags reads tags that stand at key. Those that are sound are returned even if
// others are not, one *driver.ConfigError each.
func parseTags(key string, list []string) (tags []tagTemplate, errs []error) {
	for n, text := range list {
		parts, err := parseTag(text)
		if err != nil {
			errs = append(errs, &driver.ConfigError{Key: fmt.Sprintf("%s[%d]", key, n), Value: text, Problem: templateProblem(err)})
		}
		tags = append(tags, parts...)
	}
	return tags, errs
}

// parseTag reads a list of tags with templates in it. Each tag is a template of its own,
// so that one that fails costs no other, unless a comma is part of one.
func parseTag(list string) ([]tagTemplate, error) {
	var tags []tagTemplate
	for _, text := range splitOutside(list) {
		t, err := compile(text)
		if err != nil {
			t, err := compile(list)
			if err != nil {
				return nil, err
			}
			return []tagTemplate{{list, t}}, nil
		}
		tags = append(tags, tagTemplate{text, t})
	}
	return tags, nil
}

// splitOutside splits a list at the commas outside of {{ and }}.
func splitOutside(list string) []string {
	var parts []string
	open := false
	for _, part := range splitUnescaped(list) {
		if open {
			parts[len(parts)-1] += "," + part
		} else {
			parts = append(parts, part)
		}
		if last := strings.LastIndex(part, "{{"); last >= 0 || open {
			open = strings.LastIndex(part, "}}") < last || last < 0 && !strings.Contains(part, "}}")
		}
	}
	return parts
}

func compile(text string) (*template.Template, error) {
	return template.New("tag").Option("missingkey=zero").Funcs(tagFuncs).Parse(text)
}

// tags returns what t comes to for c.
func (t tagTemplate) tags(c Container) ([]string, error) {
	var b strings.Builder
	if err := t.compiled.Execute(&b, c); err != nil {
		return nil, &driver.ConfigError{Key: keyForced, Value: t.text, Problem: templateProblem(err)}
	}
	return SplitTags(b.String()), nil
}

// templateProblem is what is wrong, on one line.
func templateProblem(err error) string {
	problem := strings.Join(strings.Fields(err.Error()), " ")
	if strings.Contains(problem, `"httpGet"`) {
		return "httpGet is not there, since a server that does not answer would hold up every registration; ask before the start and write the answer, or give it to the containers as a label and take it by mIndex"
	}
	return "the template fails: " + strings.TrimPrefix(problem, "template: ")
}

// tagFuncs are those of registrator, by its names and with its order of arguments, but
// for httpGet. Where registrator exits for want of an element or a wrong expression,
// the template fails.
var tagFuncs = template.FuncMap{
	"strSlice":   strSlice,
	"sIndex":     elementAt,
	"mIndex":     func(key string, m map[string]string) string { return m[key] },
	"toUpper":    strings.ToUpper,
	"toLower":    strings.ToLower,
	"replace":    func(n int, old, with, s string) string { return strings.Replace(s, old, with, n) },
	"join":       func(separator string, list []string) string { return strings.Join(list, separator) },
	"split":      func(separator, s string) []string { return strings.Split(s, separator) },
	"splitIndex": func(i int, separator, s string) (string, error) { return elementAt(i, strings.Split(s, separator)) },
	"matchFirstElement": func(expression string, list []string) (string, error) {
		matches, err := matching(expression, list)
		if err != nil || len(matches) == 0 {
			return "", err
		}
		return matches[0], nil
	},
	"matchAllElements": matching,
	"jsonParse":        jsonParse,
}

// strSlice is s[from:to], or s[from:]. What is not there is left out.
func strSlice(s string, at ...int) (string, error) {
	from, to := 0, len(s)
	switch len(at) {
	case 0:
		return s, nil
	case 1:
		from = at[0]
	case 2:
		from, to = at[0], min(at[1], len(s))
	default:
		return "", fmt.Errorf("%d bounds; write one or two", len(at))
	}
	if from < 0 || to < 0 {
		return "", errors.New("a bound is negative")
	}
	if from > len(s) {
		return "", nil
	}
	if to < from {
		to = len(s)
	}
	return s[from:to], nil
}

// elementAt counts from the end where i is negative, and takes the outermost where
// there are not as many.
func elementAt(i int, list []string) (string, error) {
	if len(list) == 0 {
		return "", errors.New("the list is empty")
	}
	if i < 0 {
		i += len(list)
	}
	return list[max(0, min(i, len(list)-1))], nil
}

func matching(expression string, list []string) ([]string, error) {
	re, err := regexp.Compile(expression)
	if err != nil {
		return nil, err
	}
	var matches []string
	for _, s := range list {
		if re.MatchString(s) {
			matches = append(matches, s)
		}
	}
	return matches, nil
}

func jsonParse(v any) (any, error) {
	var text []byte
	switch v := v.(type) {
	case string:
		text = []byte(v)
	case []byte:
		text = v
	default:
		return nil, fmt.Errorf("%T is no JSON", v)
	}
	var parsed any
	err := json.Unmarshal(text, &parsed)
	return parsed, err
}
