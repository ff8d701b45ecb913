"""Every text of the pages in English and Portuguese; reasons are in texts_reasons.py."""

from __future__ import annotations

import re
from typing import Any

from engine.dashboard.texts_catalogue import CATALOGUE
from engine.dashboard.texts_events import EVENTS

LANGUAGES = {"en": "English", "pt": "Português"}
TAGS = {"en": "en", "pt": "pt-BR"}

# key -> English, Portuguese
TEXTS: dict[str, tuple[str, str]] = {
    "skip": ("Skip to the content", "Ir para o conteúdo"),
    "nav": ("Pages", "Páginas"),
    "language": ("Language", "Idioma"),
    "overview": ("Overview", "Visão geral"),
    "dead": ("Dead letters", "Eventos rejeitados"),
    "log_out": ("Log out", "Sair"),
    "read_only": ("Read only", "Somente leitura"),
    "counted_since": (
        "Charts and rates count what this process did since {when}.",
        "Gráficos e taxas contam o que este processo fez desde {when}.",
    ),
    "times_utc": ("Times are UTC.", "Horários em UTC."),
    "live_pause": ("Stop updating", "Parar atualização"),
    "live_resume": ("Update again", "Voltar a atualizar"),
    "live_away": ("The server does not answer; trying again.", "O servidor não responde; tentando de novo."),
    # log-in
    "log_in": ("Log in", "Entrar"),
    "token": ("Admin token", "Token de administração"),
    "token_help": (
        "The value of CONNECT_ADMIN_TOKEN, or of CONNECT_ADMIN_READ_TOKEN to look only.",
        "O valor de CONNECT_ADMIN_TOKEN, ou de CONNECT_ADMIN_READ_TOKEN para apenas consultar.",
    ),
    "token_wrong": ("This is not the token.", "Este não é o token."),
    "token_many": (
        "Too many wrong tokens from this address. Try again in {seconds} s.",
        "Muitos tokens errados deste endereço. Tente de novo em {seconds} s.",
    ),
    "plain_http": (
        "This page came without encryption, so the browser will not keep the log-in. Open it by https, or through a "
        "tunnel to localhost.",
        "Esta página veio sem criptografia, e o navegador não vai guardar o acesso. Abra por https, ou por um túnel "
        "até localhost.",
    ),
    # errors
    "error_title": ("This did not work", "Não deu certo"),
    "error_stale": (
        "This page was open for too long, or was not from here. Nothing was done. Go back, load it again and repeat.",
        "Esta página ficou aberta por tempo demais, ou não veio daqui. Nada foi feito. Volte, recarregue e repita.",
    ),
    "error_read_only": (
        "The read token may look, and change nothing. Nothing was done.",
        "O token de leitura permite consultar, e não mudar. Nada foi feito.",
    ),
    "error_no_page": ("There is no such page.", "Esta página não existe."),
    "error_no_lane": (
        "There is no lane {lane} (any more).",
        "A fila {lane} não existe (mais).",
    ),
    "error_no_letter": (
        "There is no dead letter {id} (any more). It was retried, discarded or removed.",
        "O evento rejeitado {id} não existe (mais). Foi reenviado, descartado ou removido.",
    ),
    "error_no_job": (
        "This is not known any more: the process has started anew since. What was done is done.",
        "Isto não é mais conhecido: o processo reiniciou. O que foi feito está feito.",
    ),
    "error_method": ("This page can't be used so.", "Esta página não pode ser usada assim."),
    "error_store": (
        "The store can't be read just now. Events are kept. Try again.",
        "O armazenamento não pode ser lido agora. Os eventos estão guardados. Tente de novo.",
    ),
    "error_fault": (
        "This is our fault; the log has a line about it.",
        "O erro é nosso; há uma linha no log.",
    ),
    "error_too_large": ("What was sent is too large.", "O que foi enviado é grande demais."),
    "back_overview": ("To the overview", "Para a visão geral"),
    # overview
    "search": ("Search", "Buscar"),
    "search_help": ("client or connector", "cliente ou conector"),
    "sort": ("Order", "Ordem"),
    "sort_attention": ("What needs attention first", "O que pede atenção primeiro"),
    "sort_name": ("Client", "Cliente"),
    "sort_waiting": ("Most waiting", "Mais na fila"),
    "sort_oldest": ("Oldest event", "Evento mais antigo"),
    "sort_rejected": ("Most rejected in an hour", "Mais rejeitados em uma hora"),
    "show": ("Show", "Mostrar"),
    "state_filter": ("State", "Estado"),
    "state_all": ("All", "Todos"),
    "lanes": ("Clients and connectors", "Clientes e conectores"),
    "lanes_caption": (
        "Each client of each connector; {count} of {total}",
        "Cada cliente de cada conector; {count} de {total}",
    ),
    "client": ("Client", "Cliente"),
    "connector": ("Connector", "Conector"),
    "state": ("State", "Estado"),
    "waiting": ("Waiting", "Na fila"),
    "oldest": ("Oldest", "Mais antigo"),
    "last_hour": ("Last hour", "Última hora"),
    "last_day": ("Last day", "Último dia"),
    "success": ("Success", "Sucesso"),
    "answer_time": ("Answer p50 / p95", "Resposta p50 / p95"),
    "renewed": ("Token renewed", "Token renovado"),
    "none_found": ("Nothing fits the search.", "Nada corresponde à busca."),
    "no_lane": ("No client is bound to any connector yet.", "Nenhum cliente está ligado a um conector ainda."),
    "sum_lanes": ("lanes", "filas"),
    "sum_attention": ("need attention", "pedem atenção"),
    "sum_attention_one": ("needs attention", "pede atenção"),
    "sum_waiting": ("waiting", "na fila"),
    "sum_delivered": ("delivered in an hour", "entregues em uma hora"),
    "sum_rejected": ("rejected in an hour", "rejeitados em uma hora"),
    "state_fine": ("fine", "em dia"),
    "state_waiting": ("waiting", "na fila"),
    "state_throttled": ("waits until {when}", "espera até {when}"),
    "state_paused": ("paused", "pausada"),
    "state_held": ("part of it stands still", "uma parte está parada"),
    "state_rejecting": ("many are rejected", "muitos são rejeitados"),
    "state_none": ("no event yet", "nenhum evento ainda"),
    "kind_fine": ("fine", "em dia"),
    "kind_waiting": ("waiting", "na fila"),
    "kind_throttled": ("held back", "em espera"),
    "kind_paused": ("paused", "pausada"),
    "kind_held": ("partly still", "parcialmente parada"),
    "kind_rejecting": ("many rejected", "muitos rejeitados"),
    "kind_none": ("no event yet", "sem eventos"),
    "chart_bars": ("{delivered} delivered, {rejected} rejected", "{delivered} entregues, {rejected} rejeitados"),
    "delivered_n": ("{n} delivered", "{n} entregues"),
    "rejected_n": ("{n} rejected", "{n} rejeitados"),
    "pages": ("More pages", "Mais páginas"),
    "page_of": ("Page {page} of {pages}", "Página {page} de {pages}"),
    "page_next": ("Next", "Próxima"),
    "page_back": ("Back", "Anterior"),
    "page_first": ("From the start", "Do início"),
    "never": ("-", "-"),
    "failed": ("failed {when}", "falhou {when}"),
    "ago": ("{time} ago", "há {time}"),
    # a lane
    "lane": ("Lane", "Fila"),
    "why": ("Why is it waiting?", "Por que está esperando?"),
    "why_nothing": ("Nothing waits.", "Nada espera."),
    "why_none": ("No event has come in yet.", "Nenhum evento chegou ainda."),
    "why_paused": (
        "It is paused and sends nothing until somebody resumes it or mends its configuration:",
        "Está pausada e nada envia até que alguém a retome ou corrija a configuração:",
    ),
    "why_throttled": (
        "It goes on by itself at {when} (in {time}):",
        "Continua sozinha às {when} (em {time}):",
    ),
    "why_tries": ("{n} tries in a row failed.", "{n} tentativas seguidas falharam."),
    "why_held": ("The action {action} stands still.", "A ação {action} está parada."),
    "why_gone": (
        "The client or its binding is switched off, gone or has faults, so nothing is sent; see `connect validate`.",
        "O cliente ou a ligação está desativado, sumiu ou tem erros, e nada é enviado; veja `connect validate`.",
    ),
    "why_now": ("A worker is sending right now.", "Um processo está enviando agora."),
    "why_batch": (
        "Batches fill up first; one waits {wait} at most.",
        "Os lotes enchem primeiro; cada um espera no máximo {wait}.",
    ),
    "why_put_off": (
        "The oldest was put off, by a limit or by an answer; it goes on by itself at {when} (in {time}).",
        "O mais antigo foi adiado, por um limite ou por uma resposta; continua sozinho às {when} (em {time}).",
    ),
    "why_after": (
        "The oldest waits until another action of its event has ended.",
        "O mais antigo espera até que outra ação do seu evento termine.",
    ),
    "why_event": ("Its way so far", "O seu caminho até aqui"),
    "why_turn": ("It is about to get its turn.", "Está prestes a ter a sua vez."),
    "numbers": ("Numbers", "Números"),
    "accepted": ("Accepted", "Aceitos"),
    "delivered": ("Delivered", "Entregues"),
    "rejected": ("Rejected", "Rejeitados"),
    "skipped": ("Skipped", "Pulados"),
    "retries": ("Retries", "Novas tentativas"),
    "throttles": ("Held back", "Contenções"),
    "answered": ("Answers", "Respostas"),
    "unanswered": ("No answer", "Sem resposta"),
    "ever": ("Ever", "Desde sempre"),
    "over_time": ("Over time", "Ao longo do tempo"),
    "volume_hour": ("Volume by the minute, last hour", "Volume por minuto, última hora"),
    "volume_day": ("Volume by ten minutes, last day", "Volume a cada dez minutos, último dia"),
    "latency_hour": ("How long the CRM took to answer (p50, p95)", "Quanto o CRM levou para responder (p50, p95)"),
    "trouble_hour": ("Retries, times held back, no answer", "Novas tentativas, contenções, sem resposta"),
    "most": ("at most {n}", "no máximo {n}"),
    "hour_ago": ("an hour ago", "há uma hora"),
    "day_ago": ("a day ago", "há um dia"),
    "now": ("now", "agora"),
    "exchanges": ("Last exchanges with the CRM", "Últimas trocas com o CRM"),
    "exchanges_caption": ("The newest first; without contents", "As mais novas primeiro; sem conteúdo"),
    "exchanges_none": ("None since this process began.", "Nenhuma desde que este processo começou."),
    "at": ("At", "Quando"),
    "action": ("Action", "Ação"),
    "step": ("Step", "Passo"),
    "request": ("Request", "Requisição"),
    "status": ("Status", "Status"),
    "took": ("Took", "Duração"),
    "no_answer": ("none", "nenhum"),
    "limits": ("Limits", "Limites"),
    "limits_caption": (
        "What this client's requests may ask for, and how much of it is used now; over all processes",
        "O que as requisições deste cliente podem pedir, e quanto já foi usado; somando todos os processos",
    ),
    "limit_of": ("Of", "De"),
    "limit_is": ("Limit", "Limite"),
    "limit_rate": ("{value} requests in {per}", "{value} requisições em {per}"),
    "limit_concurrency": ("{value} at the same time", "{value} ao mesmo tempo"),
    "limit_budget": ("{value} per {per}", "{value} por {per}"),
    "limit_none": ("The settings give none.", "As configurações não definem nenhum."),
    "limit_for_client": ("of this client", "deste cliente"),
    "limit_for_credentials": (
        "of all clients with the same credentials",
        "de todos os clientes com as mesmas credenciais",
    ),
    "limit_for_host": ("of all clients of the connector", "de todos os clientes do conector"),
    "limit_used": ("Used now", "Em uso agora"),
    "limit_share": ("{used} of {most}", "{used} de {most}"),
    "limit_apart": (
        "Each value is counted by itself; none was asked for by this process yet.",
        "Cada valor é contado à parte; nenhum foi pedido por este processo ainda.",
    ),
    "limit_fullest": (
        "Each value is counted by itself; this is the fullest of the last {values}, {full} without room.",
        "Cada valor é contado à parte; este é o mais cheio dos últimos {values}, {full} sem espaço.",
    ),
    "limit_unknown": ("Its secrets can't be read.", "Os segredos não podem ser lidos."),
    "limit_off": ("Not in force for this client.", "Não se aplica a este cliente."),
    "limit_free": ("Free again", "Livre de novo"),
    "limit_now": ("There is room now.", "Há espaço agora."),
    "limit_in": ("At {when}, in {time}", "Às {when}, em {time}"),
    "limit_anew": ("Counted anew at {when}, in {time}", "Recomeça em {when}, daqui a {time}"),
    "limit_with_answer": ("With the next answer", "Com a próxima resposta"),
    "per_hour": ("hour", "hora"),
    "per_day": ("day", "dia"),
    "per_month": ("month", "mês"),
    "pause": ("Pause", "Pausar"),
    "pause_reason": ("Why, for those who look next", "Motivo, para quem olhar depois"),
    "pause_help": (
        "Events are still taken in and kept; nothing is sent until it is resumed.",
        "Os eventos continuam sendo aceitos e guardados; nada é enviado até retomar.",
    ),
    "resume": ("Resume", "Retomar"),
    "did_pause": ("It is paused.", "Está pausada."),
    "did_resume": ("It goes on.", "Continua."),
    "to_dead": ("Its dead letters", "Seus eventos rejeitados"),
    # dead letters
    "dead_groups": ("By reason", "Por motivo"),
    "dead_groups_caption": ("How many for each reason, the most first", "Quantos por motivo, os mais comuns primeiro"),
    "dead_groups_more": ("and {n} other reasons", "e outros {n} motivos"),
    "dead_list": ("List", "Lista"),
    "order_oldest": ("Oldest first", "Antigos primeiro"),
    "order_newest": ("Newest first", "Novos primeiro"),
    "dead_none": ("There is none.", "Não há nenhum."),
    "dead_none_fits": ("None fits the filter.", "Nenhum corresponde ao filtro."),
    "dead_total": ("{n} dead letters", "{n} eventos rejeitados"),
    "filter": ("Filter", "Filtro"),
    "reason": ("Reason", "Motivo"),
    "reason_has": ("Words in the reason", "Palavras no motivo, em inglês"),
    "code": ("Code", "Código"),
    "key": ("Key of the record", "Chave do registro"),
    "count": ("Count", "Quantos"),
    "no_reason": ("no reason", "sem motivo"),
    "id": ("Id", "Id"),
    "tries": ("Tries", "Tentativas"),
    "rejected_at": ("Rejected", "Rejeitado em"),
    "received_at": ("Received", "Recebido em"),
    "all_of_them": ("All that the filter leaves: {n}", "Todos os que o filtro deixa: {n}"),
    "retry_all": ("Retry all {n}", "Reenviar todos os {n}"),
    "discard_all": ("Discard all {n}", "Descartar todos os {n}"),
    "discard_sure": ("Yes, for good", "Sim, definitivamente"),
    "discard_why": ("Why (kept in the audit)", "Motivo (fica na auditoria)"),
    "discard_help": (
        "They are gone then, and stay counted as rejected.",
        "Somem, e continuam contados como rejeitados.",
    ),
    "letter": ("Dead letter {id}", "Evento rejeitado {id}"),
    "event": ("Event", "Evento"),
    "event_id": ("Id of the event", "Id do evento"),
    "masked_note": ("Personal fields are masked.", "Campos pessoais estão mascarados."),
    "revealed_note": (
        "Personal fields are shown. The audit has a line about it.",
        "Campos pessoais estão visíveis. A auditoria registrou isso.",
    ),
    "reveal": ("Show personal fields", "Mostrar campos pessoais"),
    "was_sent": ("What was sent", "O que foi enviado"),
    "came_back": ("What came back", "O que voltou"),
    "nothing_sent": ("Nothing was sent.", "Nada foi enviado."),
    "nothing_back": ("No answer came.", "Nenhuma resposta veio."),
    "no_body": ("without a body", "sem corpo"),
    "no_body_kept": (
        "without a body, or a log-in: no body of one is kept",
        "sem corpo, ou um login: o corpo dele nunca é guardado",
    ),
    "before": ("Tries before", "Tentativas anteriores"),
    "times": ("{n} times", "{n} vezes"),
    "next_step": ("What to do", "O que fazer"),
    "next_nothing": (
        "Nothing: the connector expects such rejections.",
        "Nada: o conector espera rejeições assim.",
    ),
    "next_files": (
        "Mend the connector's or the client's file, or what sends such events. Then retry.",
        "Corrija o arquivo do conector ou do cliente, ou quem envia tais eventos. Depois reenvie.",
    ),
    "next_mend": (
        "Mend what the reason names, in the CRM, in the client's file or in the event. Then retry.",
        "Corrija o que o motivo diz, no CRM, no arquivo do cliente ou no evento. Depois reenvie.",
    ),
    "preview": ("Preview", "Prévia"),
    "preview_help": (
        "What a retry would send now. Nothing is sent.",
        "O que um reenvio enviaria agora. Nada é enviado.",
    ),
    "would_send": ("What would be sent", "O que seria enviado"),
    "would_nothing": ("Nothing would be sent.", "Nada seria enviado."),
    "would_pause": ("The lane would pause:", "A fila pausaria:"),
    "retry": ("Retry", "Reenviar"),
    "retry_help": ("Back into its lane, as if it had just come in.", "De volta à fila, como se acabasse de chegar."),
    "discard": ("Discard", "Descartar"),
    "edit": ("Edit", "Editar"),
    "edit_field": ("Change one field", "Mudar um campo"),
    "edit_path": ("Path, such as product.price or items[0].id", "Caminho, como product.price ou items[0].id"),
    "edit_value": ("New value (JSON, or text); empty takes it out", "Novo valor (JSON, ou texto); vazio remove"),
    "edit_whole": ("Edit the whole event", "Editar o evento inteiro"),
    "edit_whole_help": (
        "It shows personal fields; the audit gets a line.",
        "Mostra campos pessoais; a auditoria registra.",
    ),
    "edit_json": ("The event as JSON", "O evento em JSON"),
    "save": ("Save", "Salvar"),
    "cancel": ("Cancel", "Cancelar"),
    "did_edit": ("Changed: {fields}. Look at the preview before you retry.", "Mudou: {fields}. Veja a prévia antes."),
    "did_nothing": ("Nothing is changed.", "Nada mudou."),
    "did_unwanted": (
        "Such an event would not go to this action if it came in now; a retry sends it there all the same.",
        "Um evento assim não iria para esta ação se chegasse agora; o reenvio o envia assim mesmo.",
    ),
    "not_taken": ("This event can't be taken:", "Este evento não pode ser aceito:"),
    # jobs
    "job_retry": ("Retry of {n}", "Reenvio de {n}"),
    "job_discard": ("Discarding {n}", "Descarte de {n}"),
    "job_collecting": ("Looking for those that fit.", "Procurando os que correspondem."),
    "job_acting": ("{done} of {n} put back.", "{done} de {n} devolvidos à fila."),
    "job_discarding": ("{done} of {n} discarded.", "{done} de {n} descartados."),
    "job_following": ("All are back in their lanes; {n} still wait.", "Todos de volta às filas; {n} ainda esperam."),
    "job_done": ("Finished.", "Terminado."),
    "job_failed": ("It stopped:", "Parou:"),
    "job_ended": ("Delivered or skipped", "Entregues ou pulados"),
    "job_again": ("Rejected again", "Rejeitados de novo"),
    "job_waiting": ("Waiting", "Na fila"),
    "job_missing": ("Not there any more", "Já não estavam lá"),
    "job_discarded": ("Discarded", "Descartados"),
    "job_progress": ("Progress", "Progresso"),
}

TEXTS |= CATALOGUE | EVENTS


class Words:
    """The texts of one language; called with a key and what stands in its holes."""

    def __init__(self, language: str) -> None:
        self.language, self.tag = language, TAGS[language]
        self._place = list(LANGUAGES).index(language)

    def __call__(self, key: str, **holes: Any) -> str:
        text = TEXTS[key][self._place]
        return text.format(**holes) if holes else text


def chosen(asked: str, kept: str, accept_language: str) -> str:
    """The language of a page: as asked for, as it was last time, as the browser likes it; else English."""
    for given in (asked, kept):
        if given in LANGUAGES:
            return given
    liked: list[tuple[float, str]] = []
    for part in accept_language[:200].split(","):
        name, _, weight = part.strip().partition(";")
        found = re.fullmatch(r"\s*q=([01](?:\.\d{1,3})?)\s*", weight)
        share = float(found[1]) if found else (0.0 if weight else 1.0)
        if share and (base := name.partition("-")[0].lower()) in LANGUAGES:
            liked.append((-share, base))
    return min(liked, key=lambda each: each[0])[1] if liked else "en"
