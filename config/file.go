package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/musterhq/muster/internal/decode"
)

// maxFileSize bounds the file, far above what any configuration needs.
const maxFileSize = 1 << 20

// layer is what one source says: values by key, of the types of the schema.
type layer map[string]any

// fileReader reads the YAML file against the schema.
type fileReader struct {
	name     string
	schema   *schema
	problems *problems
	// values are those that could be read, and lists the lists of sections.
	values, lists layer
	// lines are where keys stand, with sections and, as "node.tags[1]", items.
	lines map[string]int
	// broken says that the file could not be read as YAML, and nothing is known
	// of what it lacks.
	broken bool
}

// readFile reads the file at path. What is wrong goes to problems.
func readFile(path string, s *schema, f *problems) *fileReader {
	r := &fileReader{name: path, schema: s, problems: f, values: make(layer), lists: make(layer), lines: make(map[string]int)}
	if path == "" {
		return r
	}
	data, err := readAll(path)
	if err != nil {
		reason := err
		var pathErr *os.PathError
		if errors.As(err, &pathErr) {
			reason = pathErr.Err
		}
		r.broken = true
		f.add(Source{File: path}, "", "", fmt.Sprintf("cannot be read: %v", reason), "name the file of the configuration")
		return r
	}
	r.read(data)
	return r
}

func readAll(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxFileSize+1))
	if err == nil && len(data) > maxFileSize {
		err = fmt.Errorf("longer than %d bytes", maxFileSize)
	}
	return data, err
}

func (r *fileReader) read(data []byte) {
	var doc, second yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return // an empty file says nothing
	}
	if err != nil {
		r.syntax(err)
		return
	}
	switch err := dec.Decode(&second); {
	case errors.Is(err, io.EOF):
	case err != nil:
		r.syntax(err)
		return
	default:
		r.broken = true
		r.problems.add(r.at(&second), "", "", "a second YAML document", "write one")
		return
	}
	root := resolve(&doc)
	if root.Kind == yaml.DocumentNode && len(root.Content) == 1 {
		root = resolve(root.Content[0])
	}
	if isNull(root) {
		return
	}
	if root.Kind != yaml.MappingNode {
		r.broken = true
		r.problems.add(r.at(root), "", "", "not a configuration", "write keys and values, as cluster: orders")
		return
	}
	r.section(r.schema.root, root)
}

var (
	yamlLine = regexp.MustCompile(`^line (\d+): `)
	// yamlAnchor is the name of an anchor, or a secret that begins with * and has no quotes.
	yamlAnchor = regexp.MustCompile(`anchor '.*'`)
)

// syntax reports an error of the YAML library.
func (r *fileReader) syntax(err error) {
	r.broken = true
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	src := Source{File: r.name}
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		src.Line, _ = strconv.Atoi(m[1])
		text = text[len(m[0]):]
	}
	text = yamlAnchor.ReplaceAllString(text, "anchor "+decode.Redacted)
	r.problems.add(src, "", "", "not YAML: "+text, "mind the indentation, and quote special characters")
}

func (r *fileReader) at(n *yaml.Node) Source { return Source{File: r.name, Line: n.Line} }

// source is where key stands, or else the nearest section above that the file
// has, or else the file as such. A provider names the item of a list as
// peers[1] or peers.1.
func (r *fileReader) source(key string) Source {
	key = itemDot.ReplaceAllString(key, "[$1]")
	for key != "" {
		if line, ok := r.lines[key]; ok {
			return Source{File: r.name, Line: line}
		}
		key = key[:max(0, strings.LastIndexAny(key, ".["))]
	}
	return Source{File: r.name}
}

var itemDot = regexp.MustCompile(`\.(\d+)$`)

// section reads the keys of n, which is a mapping.
func (r *fileReader) section(e *entry, n *yaml.Node) {
	seen := make(map[string]int)
	for i := 0; i+1 < len(n.Content); i += 2 {
		keyNode, value := resolve(n.Content[i]), resolve(n.Content[i+1])
		name := keyNode.Value
		key := join(e.key, name)
		switch first, twice := seen[name]; {
		case keyNode.Kind != yaml.ScalarNode:
			r.problems.add(r.at(keyNode), e.key, brief(keyNode), "not a key", "write a name")
			continue
		case twice:
			r.problems.add(r.at(keyNode), key, r.unknown(nil, name, value),
				fmt.Sprintf("the key stands twice, first on line %d", first), "take one out")
			continue
		case keyNode.ShortTag() == "!!merge":
			r.problems.add(r.at(keyNode), key, brief(value), "merge keys are not supported", "write the keys out")
			continue
		}
		seen[name] = keyNode.Line
		child := e.child(name)
		if child == nil {
			problem, hint := r.schema.suggest(e, name)
			r.problems.add(r.at(keyNode), key, r.unknown(e, name, value), problem, hint)
			continue
		}
		r.lines[key] = keyNode.Line
		switch {
		case child.section && value.Kind == yaml.MappingNode:
			r.section(child, value)
		case isNull(value):
			// A key without a value is as if it were not there; a section without
			// keys has its defaults.
		case child.item != nil:
			r.list(child, value)
		case child.section:
			r.problems.add(r.at(value), key, r.brief(child, value),
				"a "+kind(value)+" where a section is wanted", "write its keys below it: "+strings.Join(child.names(), ", "))
		default:
			r.value(child, value)
		}
	}
}

// list reads n as the list of sections that e is. An item of which something is wrong is kept, so
// that the rest of it, and of the list, is checked as well.
func (r *fileReader) list(e *entry, n *yaml.Node) {
	if n.Kind != yaml.SequenceNode {
		r.problems.add(r.at(n), e.key, r.brief(e, n), "a "+kind(n)+" where a list is wanted", "write its items below it, each with a dash")
		return
	}
	list := reflect.MakeSlice(e.typ, 0, len(n.Content))
	for i, node := range n.Content {
		item := e.item.at(fmt.Sprintf("%s[%d]", e.key, i))
		node = resolve(node)
		r.lines[item.key] = node.Line
		v := reflect.New(e.item.typ).Elem()
		if node.Kind == yaml.MappingNode {
			r.section(item, node)
			r.take(item, v)
		} else {
			r.problems.add(r.at(node), item.key, r.brief(item, node), "a "+kind(node)+" where a section is wanted", "write its keys: "+strings.Join(item.names(), ", "))
		}
		list = reflect.Append(list, v)
	}
	r.lists[e.key] = list.Interface()
}

// take moves the values that were read of the section e into the struct v.
func (r *fileReader) take(e *entry, v reflect.Value) {
	for _, child := range e.children {
		if child.section {
			r.take(child, child.in(v))
		} else if value, ok := r.values[child.key]; ok {
			child.in(v).Set(reflect.ValueOf(value))
			delete(r.values, child.key)
		}
	}
}

// value reads n as the value of e.
func (r *fileReader) value(e *entry, n *yaml.Node) {
	before := len(*r.problems)
	v := reflect.New(e.typ).Elem()
	switch {
	case decode.IsScalar(e.typ):
		v = r.scalar(e, e.key, e.typ, n)
	case e.typ.Kind() == reflect.Slice:
		v.Set(reflect.MakeSlice(e.typ, 0, len(n.Content)))
		if n.Kind != yaml.SequenceNode {
			r.problems.add(r.at(n), e.key, r.brief(e, n), "a "+kind(n)+" where a list is wanted", "write it in brackets, as [a, b]")
			return
		}
		for i, item := range n.Content {
			key := fmt.Sprintf("%s[%d]", e.key, i)
			item = resolve(item)
			r.lines[key] = item.Line
			if isNull(item) {
				r.problems.add(r.at(item), key, "", "an empty item", "write it or take it out")
				continue
			}
			v.Set(reflect.Append(v, r.scalar(e, key, e.typ.Elem(), item)))
		}
	default:
		v.Set(reflect.MakeMap(e.typ))
		if n.Kind != yaml.MappingNode {
			r.problems.add(r.at(n), e.key, r.brief(e, n), "a "+kind(n)+" where a map is wanted", "write names and values, as {name: value}")
			return
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			nameNode, value := resolve(n.Content[i]), resolve(n.Content[i+1])
			if nameNode.Kind != yaml.ScalarNode || nameNode.Value == "" {
				r.problems.add(r.at(nameNode), e.key, brief(nameNode), "not a name", "write text")
				continue
			}
			key := join(e.key, nameNode.Value)
			name := reflect.ValueOf(nameNode.Value).Convert(e.typ.Key())
			if v.MapIndex(name).IsValid() {
				r.problems.add(r.at(nameNode), key, r.brief(e, value), "the name stands twice", "take one out")
				continue
			}
			r.lines[key] = nameNode.Line
			if isNull(value) {
				v.SetMapIndex(name, reflect.Zero(e.typ.Elem()))
				continue
			}
			v.SetMapIndex(name, r.scalar(e, key, e.typ.Elem(), value))
		}
	}
	if len(*r.problems) == before {
		r.values[e.key] = v.Interface()
	}
}

func (r *fileReader) scalar(e *entry, key string, t reflect.Type, n *yaml.Node) reflect.Value {
	problem, hint := checkScalar(t, n)
	v := reflect.Zero(t)
	if problem == "" {
		v, problem, hint = decode.Scalar(t, n.Value)
	}
	if problem != "" {
		r.problems.add(r.at(n), key, r.brief(e, n), problem, hint)
	}
	return v
}

// brief is what stands at n, redacted where e is secret, or has a secret in it that may be meant.
func (r *fileReader) brief(e *entry, n *yaml.Node) string {
	if e.secret() || n.Kind == yaml.ScalarNode && e.holdsSecret() {
		return decode.Redacted
	}
	return brief(n)
}

// brief is n in a few words.
func brief(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "{...}"
	case yaml.SequenceNode:
		return "[...]"
	default:
		return shown(n.Value)
	}
}

func kind(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "section"
	case yaml.SequenceNode:
		return "list"
	default:
		return "single value"
	}
}

// resolve follows an alias to what it stands for.
func resolve(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode && n.Alias != nil {
		n = n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool {
	return n.Kind == 0 || n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}
