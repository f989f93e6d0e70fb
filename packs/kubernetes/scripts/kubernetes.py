#!/usr/bin/env python3
"""Speaks with a Kubernetes API. Input: JSON on stdin; output: JSON on descriptor 3."""

import base64
import http.client
import json
import os
import random
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.parse

UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1, "ms": 0.001}
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
PATIENCE_SECONDS = 30
LARGEST_ANSWER = 64 << 20
TRIES = 8
# Others change a Deployment too: its controller does all the time.
CONFLICTS = 10
MOST_PRUNED = 5
# The annotation of a Deployment that has what the last step to change its images found.
BEFORE = "siskin/images-before"
NAME = re.compile(r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")
FIRST = ["Namespace", "CustomResourceDefinition", "ServiceAccount", "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding", "ConfigMap", "Secret"]


def fail(message):
    # The last line is what a step's error quotes.
    sys.exit(" ".join(line.strip() for line in str(message).splitlines() if line.strip()))


def note(message):
    print(message, file=sys.stderr, flush=True)


def seconds(text):
    return sum(float(number) * UNITS[unit] for number, unit in re.findall(r"([0-9.]+)(ms|[dhms])", str(text)))


def said(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def yaml_module():
    try:
        import yaml
    except ImportError:
        fail("YAML can be read only where python3-yaml is installed (apt-get install python3-yaml); JSON always can")
    return yaml


def documents(text, name):
    if name.endswith(".json"):
        try:
            return [json.loads(text)]
        except ValueError as error:
            fail(f"{name} is no JSON: {error}")
    yaml = yaml_module()
    try:
        return [document for document in yaml.safe_load_all(text) if document is not None]
    except yaml.YAMLError as error:
        fail(f"{name} is no YAML: {error}")


class Cluster:
    """Where it is, and as whom it is asked."""

    def __init__(self):
        env = os.environ.get
        self.headers, certificate = {}, None
        self.namespace = env("NAMESPACE") or "default"
        ca = env("CA", "")
        if env("KUBECONFIG_PATH"):
            server, ca, token, certificate = self.of_file(env("KUBECONFIG_PATH"), env("CONTEXT", ""))
        elif env("SERVER"):
            server, token = env("SERVER"), env("TOKEN", "")
        elif os.path.exists(f"{ACCOUNT}/token"):
            host, port = env("KUBERNETES_SERVICE_HOST", "kubernetes.default.svc"), env("KUBERNETES_SERVICE_PORT", "443")
            server, token, ca = f"https://{host}:{port}", said(f"{ACCOUNT}/token").strip(), f"{ACCOUNT}/ca.crt"
        else:
            fail("no cluster is said: set `server` and `token_secret`, or `kubeconfig`, in `config: {kubernetes: ..}`")
        self.url = urllib.parse.urlsplit(server)
        if self.url.scheme not in ("http", "https") or not self.url.hostname:
            fail(f"`{server}` is no address of a Kubernetes API; write https://HOST:6443")
        if token:
            self.headers["Authorization"] = f"Bearer {token}"
        self.context = self.trust(ca, certificate) if self.url.scheme == "https" else None
        self.known = {}

    def of_file(self, path, context):
        try:
            [config] = documents(said(path), path if path.endswith(".json") else path + ".yaml")
        except (OSError, ValueError) as error:
            fail(f"the kubeconfig {path} can't be read: {error}")

        def named(kind, name):
            found = next((entry[kind] for entry in config.get(f"{kind}s") or [] if entry["name"] == name), None)
            return found if found is not None else fail(f"the kubeconfig {path} has no {kind} `{name}`")

        chosen = named("context", context or config.get("current-context", ""))
        self.namespace = chosen.get("namespace") or self.namespace
        cluster, user = named("cluster", chosen["cluster"]), named("user", chosen["user"])
        if "exec" in user or "auth-provider" in user:
            fail(f"the user `{chosen['user']}` of {path} logs in by a program, which is not done here; give a token")

        def pem(entry, key):
            if entry.get(f"{key}-data"):
                return base64.b64decode(entry[f"{key}-data"]).decode()
            return entry.get(key, "")

        certificate = (pem(user, "client-certificate"), pem(user, "client-key"))
        token = user.get("token") or (said(user["tokenFile"]).strip() if user.get("tokenFile") else "")
        return cluster["server"], pem(cluster, "certificate-authority"), token, certificate if certificate[0] else None

    @staticmethod
    def trust(ca, certificate):
        try:
            text = ca if "-----BEGIN" in ca else (said(ca) if ca else None)
            context = ssl.create_default_context(cadata=text)
            if certificate:
                with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
                    file.write("\n".join(part if "-----BEGIN" in part else said(part) for part in certificate))
                    file.flush()
                    context.load_cert_chain(file.name)
        except (OSError, ssl.SSLError) as error:
            fail(f"the certificates for the cluster can't be used: {error}")
        return context

    def once(self, method, path, body, kind):
        url = self.url
        make = http.client.HTTPSConnection if self.context else http.client.HTTPConnection
        more = {"context": self.context} if self.context else {}
        connection = make(url.hostname, url.port, timeout=PATIENCE_SECONDS, **more)
        headers = {"Accept": "application/json", "User-Agent": "siskin", **self.headers}
        if body is not None:
            headers["Content-Type"] = kind
            body = json.dumps(body).encode()
        try:
            connection.request(method, url.path.rstrip("/") + path, body, headers)
            answer = connection.getresponse()
            text = answer.read(LARGEST_ANSWER)
        except ssl.SSLCertVerificationError as error:
            fail(f"the certificate of {url.netloc} is not trusted: {error.verify_message}; say `ca`")
        finally:
            connection.close()
        try:
            return answer, json.loads(text)
        except ValueError:
            return answer, {"message": text[:300].decode(errors="replace")}

    def ask(self, method, path, body=None, kind="application/json", query=None, may=()):
        """Status and body. What may pass by itself is tried again; what is no success, and not in `may`, fails."""
        if query:
            path += "?" + urllib.parse.urlencode(query)
        for attempt in range(TRIES):
            pause = min(0.25 * 2**attempt, 10) * random.uniform(0.5, 1)
            try:
                answer, got = self.once(method, path, body, kind)
            except (OSError, http.client.HTTPException) as error:
                problem = f"{self.url.netloc} does not answer: {error}"
            else:
                status, message = answer.status, got.get("message") or "nothing more" if isinstance(got, dict) else "nothing more"
                if status < 300 or status in may:
                    return status, got
                if status == 401:
                    fail(f"{self.url.netloc} does not know our token (401); look at `token_secret` in `config: {{kubernetes: ..}}`")
                if status == 403:
                    fail(f"{self.url.netloc} forbids it (403): {message}")
                if status != 429 and status < 500:
                    fail(f"{self.url.netloc} answered {status}: {message}")
                problem = f"{self.url.netloc} answered {status}: {message}"
                after = answer.headers.get("Retry-After", "")
                pause = min(float(after), 30) if after.isdigit() else pause
            if attempt + 1 < TRIES:
                note(f"{problem}; again in {pause:.1f} s")
                time.sleep(pause)
        return fail(f"{problem}; it was tried {TRIES} times")

    def kinds(self, api_version):
        """The resources of a group by their kind."""
        if api_version not in self.known:
            base = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
            status, found = self.ask("GET", base, may=(404,))
            if status == 404:
                found = {}
            self.known[api_version] = {
                entry["kind"]: (base, entry["name"], entry["namespaced"])
                for entry in found.get("resources") or []
                if "/" not in entry["name"]
            }
        return self.known[api_version]

    def place(self, api_version, kind, namespace):
        """The path of all objects of a kind, and whether it is in a namespace."""
        found = self.kinds(api_version).get(kind)
        if not found:
            fail(f"the cluster does not know {api_version} {kind}")
        base, plural, namespaced = found
        return (f"{base}/namespaces/{namespace}/{plural}" if namespaced and namespace else f"{base}/{plural}"), namespaced


def checked(name, what):
    if not NAME.match(name):
        fail(f"`{name}` can't be the name of {what}")
    return name


# Deployments.


def path_of(given, cluster):
    namespace = checked(given["namespace"] or cluster.namespace, "a namespace")
    return f"/apis/apps/v1/namespaces/{namespace}/deployments/{checked(given['deployment'], 'a Deployment')}"


def read(cluster, path):
    status, found = cluster.ask("GET", path, may=(404,))
    if status == 404:
        *_, namespace, _, name = path.split("/")
        fail(f"there is no Deployment `{name}` in the namespace `{namespace}`")
    return found


def set_image(given):
    cluster = Cluster()
    path, wanted = path_of(given, cluster), given["containers"]
    if not wanted:
        fail("`containers` names none")
    for name, image in wanted.items():
        if not isinstance(image, str) or not image.strip() or re.search(r"\s", image):
            fail(f"the image of `{name}` is none: {json.dumps(image)}")
    for _ in range(CONFLICTS):
        found = read(cluster, path)
        pod = found["spec"]["template"]["spec"]
        lists = {key: {entry["name"]: entry.get("image", "") for entry in pod.get(key) or []} for key in ("containers", "initContainers")}
        known = {**lists["initContainers"], **lists["containers"]}
        strange = sorted(set(wanted) - set(known))
        if strange:
            fail(f"the Deployment `{given['deployment']}` has no container `{strange[0]}`; it has {', '.join(sorted(known))}")
        previous = {name: known[name] for name in wanted}
        if previous == wanted:
            # An attempt of this step that nobody heard of any more may have done it.
            before = of_this_step(found, wanted)
            changed, previous = before is not None, before or previous
            break
        change = {
            key: [{"name": name, "image": image} for name, image in wanted.items() if name in entries]
            for key, entries in lists.items()
            if any(name in entries for name in wanted)
        }
        # Whoever changed it since makes this a conflict, and it is read again.
        mark = json.dumps({**this_step(), "images": wanted, "before": previous}, sort_keys=True)
        metadata = {"resourceVersion": found["metadata"]["resourceVersion"], "annotations": {BEFORE: mark}}
        body = {"metadata": metadata, "spec": {"template": {"spec": change}}}
        status, found = cluster.ask("PATCH", path, body, "application/strategic-merge-patch+json", {"fieldManager": "siskin"}, may=(409,))
        if status != 409:
            changed = True
            for name, image in wanted.items():
                print(f"{name}: {previous[name]} -> {image}", flush=True)
            break
        note("it was changed by somebody else at the same time; it is read again")
    else:
        fail(f"the Deployment `{given['deployment']}` is changed by somebody else all the time; it was tried {CONFLICTS} times")
    output = {"changed": changed, "previous": previous, "generation": found["metadata"].get("generation", 0), "ready": ready_of(found)}
    if given["wait"]:
        # Also when it fails, what it was before is wanted.
        tell(output)
        output.update(rolled_out(cluster, path, given, output["generation"]))
    return output


def this_step():
    return {"run": os.environ.get("SISKIN_RUN", ""), "step": os.environ.get("SISKIN_STEP", "")}


def of_this_step(found, wanted):
    """The images that were there before this step set these, where it has done so already."""
    try:
        mark = json.loads((found["metadata"].get("annotations") or {})[BEFORE])
        is_ours = mark["run"] and {"run": mark["run"], "step": mark["step"]} == this_step() and mark["images"] == wanted
        return {name: str(mark["before"][name]) for name in wanted} if is_ours else None
    except (KeyError, TypeError, ValueError):
        return None


def ready_of(found):
    return (found.get("status") or {}).get("readyReplicas", 0)


def rollout(given):
    cluster = Cluster()
    path = path_of(given, cluster)
    return rolled_out(cluster, path, given, 0)


def rolled_out(cluster, path, given, generation):
    began, patience, shown = time.monotonic(), seconds(given["within"]), None
    name, pause = given["deployment"], 0.25
    while True:
        found = read(cluster, path)
        spec, status = found["spec"], found.get("status") or {}
        if spec.get("paused"):
            fail(f"the Deployment `{name}` is paused, so it does not roll out; resume it")
        is_seen = status.get("observedGeneration", 0) >= max(generation, found["metadata"].get("generation", 0))
        want, total = spec.get("replicas", 1), status.get("replicas", 0)
        updated, available = status.get("updatedReplicas", 0), status.get("availableReplicas", 0)
        if is_seen and updated >= want and total <= updated and available >= updated:
            return {"generation": found["metadata"].get("generation", 0), "ready": ready_of(found)}
        progress = f"{updated} of {want} pods are new, {available} serve, {max(total - updated, 0)} old ones are left"
        if progress != shown:
            print(progress, flush=True)
            shown = progress
        conditions = {entry["type"]: entry for entry in status.get("conditions") or []}
        progressing = conditions.get("Progressing") or {}
        late = None
        if is_seen and progressing.get("reason") == "ProgressDeadlineExceeded":
            late = f"made no progress within its deadline of {spec.get('progressDeadlineSeconds', 600)} s"
        elif time.monotonic() - began > patience:
            late = f"was not rolled out within {given['within']}"
        if late:
            failure = (conditions.get("ReplicaFailure") or {}).get("message")
            why = ([failure] if failure else []) + reasons(cluster, path, spec)
            fail(f"the Deployment `{name}` {late} ({progress}): {'; '.join(why) or 'its pods say nothing'}")
        time.sleep(pause)
        pause = min(pause * 1.5, 5)


def reasons(cluster, path, spec):
    """What keeps the pods of a Deployment from serving."""
    labels = (spec.get("selector") or {}).get("matchLabels") or {}
    selector = ",".join(f"{name}={value}" for name, value in labels.items())
    namespace = path.split("/namespaces/")[1].split("/")[0]
    query = {"labelSelector": selector, "limit": 200}
    status, found = cluster.ask("GET", f"/api/v1/namespaces/{namespace}/pods", query=query, may=(403, 404))
    if status >= 300:
        return [f"its pods can't be looked at ({status}: {str(found.get('message'))[:300]})"]
    why = []
    for pod in found.get("items") or []:
        name, status = pod["metadata"]["name"], pod.get("status") or {}
        for entry in (status.get("initContainerStatuses") or []) + (status.get("containerStatuses") or []):
            state, last = entry.get("state") or {}, (entry.get("lastState") or {}).get("terminated") or {}
            for of in (state.get("waiting"), state.get("terminated")):
                if of and of.get("reason") not in (None, "Completed", "ContainerCreating", "PodInitializing"):
                    more = of.get("message") or (f"exit status {of['exitCode']}" if "exitCode" in of else "")
                    if last and "exitCode" in last:
                        more = f"{more}; it last ended with exit status {last['exitCode']}" if more else f"it last ended with exit status {last['exitCode']}"
                    why.append(f"{name}/{entry['name']}: {of['reason']}" + (f" ({more[:300]})" if more else ""))
            if state.get("running") and not entry.get("ready"):
                why.append(f"{name}/{entry['name']}: runs, and is not ready")
        for condition in status.get("conditions") or []:
            if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
                why.append(f"{name}: {condition.get('reason')} ({(condition.get('message') or '')[:300]})")
    return list(dict.fromkeys(why))[:10]


# Manifests.


def inside(path, what):
    base = os.path.realpath(os.environ.get("SISKIN_WORKSPACE") or os.getcwd())
    real = os.path.realpath(os.path.join(base, path))
    if real != base and not real.startswith(base + os.sep):
        fail(f"{what} `{path}` leads out of the workspace")
    if not os.path.exists(real):
        fail(f"{what} `{path}` is not in the workspace")
    return real


def manifests(given):
    """All objects, in the order in which they stand."""
    if sum(bool(given[key]) for key in ("path", "kustomize", "objects")) > 1:
        fail("say one of `path`, `kustomize` and `objects`")
    found = []
    if given["objects"]:
        found = given["objects"]
    elif given["kustomize"]:
        folder = inside(given["kustomize"], "the kustomization")
        program = next((words for words in (["kustomize", "build"], ["kubectl", "kustomize"]) if shutil.which(words[0])), None)
        if not program:
            fail("neither kustomize nor kubectl is installed at this worker")
        built = subprocess.run([*program, folder], capture_output=True, text=True, check=False)
        if built.returncode:
            fail(f"{' '.join(program)} failed: {built.stderr.strip()[:1000]}")
        found = documents(built.stdout, "what kustomize gives.yaml")
    elif given["path"]:
        top = inside(given["path"], "`path`")
        files = [top]
        if os.path.isdir(top):
            files = sorted(os.path.join(folder, name) for folder, _, names in os.walk(top) for name in names if name.endswith((".json", ".yaml", ".yml")))
        for file in files:
            found += documents(said(file), file)
    objects = []
    for entry in found:
        if isinstance(entry, dict) and entry.get("kind") == "List" and "items" in entry:
            objects += entry["items"]
        else:
            objects.append(entry)
    for entry in objects:
        named = isinstance(entry, dict) and entry.get("apiVersion") and entry.get("kind") and isinstance(entry.get("metadata"), dict)
        if not named or not entry["metadata"].get("name"):
            fail(f"what is to be applied is no manifest with apiVersion, kind and metadata.name: {json.dumps(entry)[:200]}")
    return objects


def shown(api_version, kind, namespace, name):
    return {"kind": kind, "namespace": namespace or None, "name": name, "api_version": api_version}


def apply(given):
    objects = manifests(given)
    cluster = Cluster()
    if not objects:
        fail("there is nothing to apply" + (", so nothing is pruned either: an empty folder deletes nothing" if given.get("prune") else ""))
    default = given["namespace"] or cluster.namespace
    placed, seen = [], set()
    for entry in objects:
        metadata = entry["metadata"]
        namespace = metadata.get("namespace") or default
        # What a definition among them will make known is not known yet.
        found = cluster.kinds(entry["apiVersion"]).get(entry["kind"])
        if found and not found[2]:
            namespace = ""
        elif "namespace" not in metadata and found:
            metadata["namespace"] = namespace
        key = (entry["apiVersion"], entry["kind"], namespace, metadata["name"])
        if key in seen:
            fail(f"{entry['kind']} {metadata['name']} stands in the manifests twice")
        seen.add(key)
        placed.append((key, entry))
    goes = to_prune(cluster, given.get("prune"), placed, default)
    placed.sort(key=lambda one: FIRST.index(one[0][1]) if one[0][1] in FIRST else len(FIRST))
    query = {"fieldManager": "siskin", "force": "true" if given["force"] else "false"}
    if given["dry_run"]:
        query["dryRun"] = "All"
    applied = []
    for (api_version, kind, namespace, name), entry in placed:
        if kind not in cluster.kinds(api_version):
            cluster.known.pop(api_version, None)
        path = f"{cluster.place(api_version, kind, namespace)[0]}/{urllib.parse.quote(name)}"
        status, before = cluster.ask("GET", path, may=(404,))
        old = None if status == 404 else before["metadata"].get("resourceVersion")
        status, after = cluster.ask("PATCH", path, entry, "application/apply-patch+yaml", query, may=(409,))
        if status == 409:
            tell({"applied": applied, "pruned": []})
            fail(f"{kind} {name} has fields that somebody else manages: {after.get('message')}; `force: true` takes them over")
        change = "created" if old is None else "same" if after["metadata"].get("resourceVersion") == old else "changed"
        applied.append({**shown(api_version, kind, namespace, name), "change": change})
        print(f"{kind} {name}: {change}", flush=True)
    pruned = []
    for api_version, kind, namespace, name, uid in goes:
        path = f"{cluster.place(api_version, kind, namespace)[0]}/{urllib.parse.quote(name)}"
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background", "preconditions": {"uid": uid}}
        if given["dry_run"]:
            body["dryRun"] = ["All"]
        # Gone already, or made anew since: then it is not the one that was meant.
        status, _ = cluster.ask("DELETE", path, body, may=(404, 409))
        if status < 300:
            pruned.append(shown(api_version, kind, namespace, name))
            print(f"{kind} {name}: deleted", flush=True)
    return {"applied": applied, "pruned": pruned}


def without_version(api_version, *more):
    """What an object is called whatever version of its group it is served under."""
    return (api_version.rpartition("/")[0], *more)


def to_prune(cluster, prune, placed, default):
    """What bears the labels and is not among the manifests; refused where that looks like a mistake."""
    if not prune:
        return []
    strange = set(prune) - {"labels", "max", "kinds"}
    labels, most = prune.get("labels"), prune.get("max", MOST_PRUNED)
    if strange or not isinstance(labels, dict) or not labels or not isinstance(most, int) or isinstance(most, bool) or most < 0:
        fail("`prune` is {labels: {app: shop}, max: 5, kinds: [apps/v1/Deployment]}, and needs `labels`: without them everything would go")
    for (_, kind, _, name), entry in placed:
        has = entry["metadata"].get("labels") or {}
        if any(str(has.get(label)) != str(value) for label, value in labels.items()):
            fail(f"{kind} {name} lacks the labels of `prune`, so it would never be found again; give it {json.dumps(labels)}")
    kinds = {(api_version, kind) for (api_version, kind, _, _), _ in placed}
    for said_kind in prune.get("kinds") or []:
        api_version, _, kind = str(said_kind).rpartition("/")
        if not api_version:
            fail(f"a kind in `prune` is as apps/v1/Deployment or v1/ConfigMap, not `{said_kind}`")
        kinds.add((api_version, kind))
    namespaces = {namespace for (_, _, namespace, _), _ in placed if namespace} or {default}
    selector = ",".join(f"{name}={value}" for name, value in labels.items())
    goes, met = [], {without_version(*key) for key, _ in placed}
    for api_version, kind in sorted(kinds):
        if kind == "Namespace" or kind not in cluster.kinds(api_version):
            continue
        _, _, namespaced = cluster.kinds(api_version)[kind]
        for namespace in sorted(namespaces) if namespaced else [""]:
            path, _ = cluster.place(api_version, kind, namespace)
            _, found = cluster.ask("GET", path, query={"labelSelector": selector})
            for entry in found.get("items") or []:
                metadata = entry["metadata"]
                one = without_version(api_version, kind, namespace, metadata["name"])
                # What another object owns goes with that one.
                if one in met or metadata.get("ownerReferences") or metadata.get("deletionTimestamp"):
                    continue
                met.add(one)
                goes.append((api_version, kind, namespace, metadata["name"], metadata.get("uid")))
    if len(goes) > most:
        names = ", ".join(f"{kind} {name}" for _, kind, _, name, _ in goes[:10])
        fail(f"{len(goes)} objects would be deleted, and `prune.max` is {most}; nothing was changed. They are: {names}{' and more' if len(goes) > 10 else ''}")
    return goes


OUTPUT = {}


def tell(output):
    """What is known so far: it is the output, also when the action fails after it."""
    OUTPUT.update(output)


ENDING = (signal.SIGTERM, signal.SIGINT)


def ended(number, _frame):
    fail(f"ended by {signal.Signals(number).name}")


def main():
    # What is known so far is told also then.
    for number in ENDING:
        signal.signal(number, ended)
    given = json.load(sys.stdin)
    try:
        tell({"set_image": set_image, "rollout": rollout, "apply": apply}[sys.argv[1]](given))
    finally:
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)
        if OUTPUT:
            with os.fdopen(3, "w") as result:
                json.dump(OUTPUT, result)


if __name__ == "__main__":
    main()
