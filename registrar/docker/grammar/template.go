package grammar

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"strings"
	"text/template"
	"text/template/parse"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/registrar/docker/engine"
)

// tagTemplate is one of Rules.Tags.
type tagTemplate struct {
	text     string
	compiled *template.Template
}

// parseTags reads the tags of a key. Those that are sound are returned even if
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
func parseTag(list string) ([]tagTemplate, error) { return parseTagWith(list, tagFuncs) }

func parseTagWith(list string, funcs template.FuncMap) ([]tagTemplate, error) {
	var tags []tagTemplate
	for _, text := range splitOutside(list) {
		t, err := compile(text, funcs)
		if err != nil {
			t, err := compile(list, funcs)
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

func compile(text string, funcs template.FuncMap) (*template.Template, error) {
	return template.New("tag").Option("missingkey=zero").Funcs(funcs).Parse(text)
}

// tags returns what t comes to for c.
func (t tagTemplate) tags(c engine.Container) ([]string, error) {
	var b strings.Builder
	if err := t.compiled.Execute(&b, c); err != nil {
		return nil, &driver.ConfigError{Key: keyForced, Value: t.text, Problem: templateProblem(err)}
	}
	return SplitTags(b.String()), nil
}

// ownTags returns the tags that a setting of a container says. Each may be a template over
// the container, as in Rules.Tags, but a container is not trusted like the author of the
// configuration is: its templates neither loop nor make long texts of short ones.
func ownTags(s setting, c engine.Container) (tags []string, errs []error) {
	if !strings.Contains(s.value, "{{") {
		return SplitTags(s.value), nil
	}
	bad := func(err error) {
		errs = append(errs, &driver.ConfigError{Key: s.source(), Value: s.value, Problem: templateProblem(err)})
	}
	if len(s.value) > maxOwnTemplate {
		bad(fmt.Errorf("it has more than %d bytes", maxOwnTemplate))
		return nil, errs
	}
	templates, err := parseTagWith(s.value, ownTagFuncs)
	if err != nil {
		bad(err)
		return nil, errs
	}
	for _, t := range templates {
		if err := bounded(t.compiled.Root); err == nil && len(t.compiled.Templates()) > 1 {
			bad(errors.New("it defines a template, which is for registrar.tags alone"))
			continue
		} else if err != nil {
			bad(err)
			continue
		}
		var b strings.Builder
		if err := t.compiled.Execute(&b, c); err != nil {
			bad(err)
			continue
		}
		tags = append(tags, SplitTags(b.String())...)
	}
	return tags, errs
}

// maxOwnTemplate and maxOwnText bound what a container's template is and what it makes.
const maxOwnTemplate, maxOwnText = 4 << 10, 16 << 10

// bounded returns an error if a template may take longer than its length says.
func bounded(node parse.Node) error {
	switch n := node.(type) {
	case *parse.ListNode:
		if n == nil {
			return nil
		}
		for _, one := range n.Nodes {
			if err := bounded(one); err != nil {
				return err
			}
		}
	case *parse.IfNode:
		return errors.Join(bounded(n.List), bounded(n.ElseList))
	case *parse.WithNode:
		return errors.Join(bounded(n.List), bounded(n.ElseList))
	case *parse.TextNode, *parse.ActionNode, *parse.CommentNode:
	default:
		return fmt.Errorf("it has %s, which is for registrar.tags alone", strings.Fields(node.String() + " nothing")[0])
	}
	return nil
}

// ownTagFuncs are tagFuncs for the templates of containers.
var ownTagFuncs = func() template.FuncMap {
	funcs := maps.Clone(tagFuncs)
	for _, name := range []string{"print", "printf", "println", "html", "js", "urlquery", "call"} {
		funcs[name] = func(...any) (string, error) { return "", fmt.Errorf("%s is for registrar.tags alone", name) }
	}
	short := func(text string) (string, error) {
		if len(text) > maxOwnText {
			return "", fmt.Errorf("it makes more than %d bytes", maxOwnText)
		}
		return text, nil
	}
	funcs["replace"] = func(n int, old, with, s string) (string, error) {
		times := strings.Count(s, old)
		if n >= 0 {
			times = min(times, n)
		}
		if len(s)+times*len(with) > maxOwnText {
			return short(strings.Repeat(" ", maxOwnText+1))
		}
		return strings.Replace(s, old, with, n), nil
	}
	funcs["join"] = func(separator string, list []string) (string, error) {
		if len(list)*len(separator) > maxOwnText {
			return short(strings.Repeat(" ", maxOwnText+1))
		}
		return short(strings.Join(list, separator))
	}
	return funcs
}()

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
